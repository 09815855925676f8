package frontdoor

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// What a client says of its command line reaches the type, whatever it says.
func TestArguments(t *testing.T) {
	c, _ := serve(t)
	var many []string
	for i := range 200 {
		many = append(many, fmt.Sprintf("--a%d", i))
	}
	for _, tt := range []struct {
		said string
		want []string
	}{
		{"", nil},
		{"--resource-group -n --bootstrap-container-registry-resource-id", []string{"--resource-group", "-n", "--bootstrap-container-registry-resource-id"}},
		{" --tags   value --- - -- --\u00e9 --a;b --a=b <b>", []string{"--tags"}},
		{strings.Join(many, " "), many[:maxArguments]},
		{"--" + strings.Repeat("a", 65), nil},
		{strings.Repeat("--a ", maxArgumentsBytes), nil},
	} {
		a := c.do("PUT", sub+"/resourceGroups/rg/providers/Microsoft.Test/heard/x", `{"location":"eastus"}`, "ParameterSetName", tt.said)
		if a.status != http.StatusOK && a.status != http.StatusCreated {
			t.Fatalf("%.60q: %d %s", tt.said, a.status, a.text)
		}
		got, _ := a.body.At("properties.arguments").([]any)
		if fmt.Sprint(got) != fmt.Sprint(tt.want) {
			t.Errorf("%.60q: heard %v, want %v", tt.said, got, tt.want)
		}
		c.ended(a)
	}
}

// ended waits for the operation of an answer, and returns its status document.
func (c *client) ended(a answer) answer {
	c.t.Helper()
	for limit := time.Now().Add(10 * time.Second); ; {
		s := c.do("GET", a.header.Get("Azure-AsyncOperation")+"&$wait=10", "")
		if s.body.String("status") != "InProgress" || time.Now().After(limit) {
			return s
		}
	}
}

// A write reports with its operation; where its Location leads is the document, as ever. An action reports nothing.
func TestReport(t *testing.T) {
	c, _ := serve(t)
	path := sub + "/resourceGroups/rg/providers/Microsoft.Test/heard/x"
	put := c.do("PUT", path, `{"location":"eastus"}`)
	if s := c.ended(put); s.body.String("status") != "Succeeded" || s.body.String("properties.warnings.0") != "x" {
		t.Errorf("the operation of a write: %s", s.text)
	}
	if r := c.do("GET", put.header.Get("Location"), ""); r.status != http.StatusOK || r.body.String("name") != "x" {
		t.Errorf("the result of a write: %d %s", r.status, r.text)
	}
	restart := c.do("POST", path+"/restart", "")
	if s := c.ended(restart); s.body.String("status") != "Succeeded" || s.body.At("properties") != nil {
		t.Errorf("the operation of an action: %s", s.text)
	}
}
