package armerror

import (
	"fmt"
	"strings"
)

// MultipleErrorsOccurred is ARM's code of an answer that carries several problems in its details.
const MultipleErrorsOccurred = "MultipleErrorsOccurred"

// Join makes one error of all problems of a request: nil for none, the problem itself for one, and
// otherwise ARM's MultipleErrorsOccurred with each in its details.
func Join(problems []*Error) error {
	switch len(problems) {
	case 0:
		return nil
	case 1:
		return problems[0]
	}
	codes := make([]string, len(problems))
	for i, p := range problems {
		codes[i] = p.Code
	}
	return &Error{
		Status:  problems[0].HTTPStatus(),
		Code:    MultipleErrorsOccurred,
		Message: fmt.Sprintf("Multiple error occurred: %s. Please see details.", strings.Join(codes, ",")),
		Details: problems,
	}
}
