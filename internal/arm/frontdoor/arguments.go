package frontdoor

import (
	"net/http"
	"regexp"
	"strings"
)

// Bounds of what a client may say of its command line: the longest command of az has fewer arguments.
const (
	maxArguments      = 128
	maxArgumentsBytes = 8 << 10
)

var argumentName = regexp.MustCompile(`^--?[A-Za-z0-9][-_A-Za-z0-9]{0,63}$`)

// arguments are the names of the arguments that the client's command line had: the Azure CLI says them in the header
// ParameterSetName of each request, without their values, as they were typed. What is no argument's name is left out.
func arguments(r *http.Request) []string {
	said := r.Header.Get("ParameterSetName")
	if len(said) > maxArgumentsBytes {
		return nil
	}
	var out []string
	for word := range strings.FieldsSeq(said) {
		if len(out) == maxArguments {
			break
		}
		if argumentName.MatchString(word) {
			out = append(out, word)
		}
	}
	return out
}
