package azurecli

import (
	"testing"

	"github.com/cloister-dev/cloister/test/page"
)

// A section that no run types would never be tried.
func TestEverySectionIsTyped(t *testing.T) {
	typed := map[string]bool{}
	for _, r := range runs {
		for _, s := range r.steps {
			typed[s.section] = true
		}
	}
	for _, h := range page.Headings {
		if h.Name != "" && !typed[h.Name] {
			t.Errorf("no run types the section %q", h.Name)
		}
	}
}
