package azcli

import (
	"encoding/json"
	"strings"

	"github.com/cloister-dev/cloister/internal/lib/adminapi"
)

// parameterNames are the arguments of a command line as az tells them in a request's header: their names alone.
func parameterNames(words []string) []string {
	var out []string
	for _, w := range words {
		switch {
		case strings.HasPrefix(w, "---"), len(w) < 2, w[0] != '-':
		case strings.HasPrefix(w, "--"):
			name, _, _ := strings.Cut(w, "=")
			out = append(out, name)
		default:
			out = append(out, w[:2])
		}
	}
	return out
}

// tell warns of what works and does not do what was meant.
func (c *Connection) tell(report adminapi.WriteReport) {
	if c.warn == nil {
		return
	}
	for _, w := range report.Warnings {
		c.warn("%s", strings.Join(append([]string{w.Message}, mending(w.Mend)...), "\n"))
	}
}

func mending(commands []string) []string { return labelled("To mend it: ", commands) }

// labelled are commands to be typed in order, one in a line.
func labelled(label string, commands []string) []string {
	out := make([]string, len(commands))
	for i, command := range commands {
		out[i] = label + command
		label = strings.Repeat(" ", len(label))
	}
	return out
}

// because is why the error came about and what mends it, where the service says so; a line each.
func (e *Error) because() []string {
	var fault struct {
		Error struct {
			AdditionalInfo []struct {
				Type string
				Info json.RawMessage
			}
		}
	}
	if json.Unmarshal(e.Body, &fault) != nil {
		return nil
	}
	var out []string
	for _, info := range fault.Error.AdditionalInfo {
		var d adminapi.Diagnosis
		if info.Type != adminapi.DiagnosisInfo || json.Unmarshal(info.Info, &d) != nil || d.Cause == nil {
			continue
		}
		out = append(out, "Cause: "+strings.TrimSpace(d.Cause.Name+" "+d.Cause.Subject)+": "+d.Cause.Saw)
		out = append(out, mending(d.Cause.Mend)...)
		out = append(out, labelled("Then: ", d.Then)...)
	}
	return out
}
