package rolecheck

import (
	"math/rand/v2"
	"path"
	"strings"
	"testing"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
)

const sub = "/subscriptions/s"

func TestAllowed(t *testing.T) {
	definitions := Index([]Definition{
		{ID: "OWNER", Permissions: []Permission{{Actions: []string{"*"}}}},
		{ID: "contributor", Permissions: []Permission{{Actions: []string{"*"}, NotActions: []string{"Microsoft.Authorization/*/Write"}}}},
		{ID: "reader", Permissions: []Permission{{Actions: []string{"*/read"}}}},
		{ID: "uaa", Permissions: []Permission{{Actions: []string{"Microsoft.Authorization/*"}}}},
		{ID: "data", Permissions: []Permission{{DataActions: []string{"Microsoft.X/ys/data/*"}, NotDataActions: []string{"*/delete"}}}},
	})
	at := func(principal, role, scope string) Assignment {
		return Assignment{principal, role, resourceid.MustParse(scope)}
	}
	const write, vm = "Microsoft.Authorization/roleAssignments/write", sub + "/resourceGroups/rg/providers/Microsoft.X/ys/a"
	for _, c := range []struct {
		name        string
		assignments []Assignment
		action      string
		scope       string
		want        bool
	}{
		{"none", nil, "a/b/read", vm, false},
		{"owner of the subscription", []Assignment{at("P", "owner", sub)}, write, vm, true},
		{"another's", []Assignment{at("q", "owner", sub)}, write, vm, false},
		{"tenant root", []Assignment{at("p", "owner", "/")}, write, vm, true},
		{"not actions", []Assignment{at("p", "contributor", sub)}, write, vm, false},
		{"not actions deny nothing", []Assignment{at("p", "contributor", sub), at("p", "uaa", sub)}, write, vm, true},
		{"read only", []Assignment{at("p", "reader", sub)}, "Microsoft.X/ys/read", vm, true},
		{"read only writes", []Assignment{at("p", "reader", sub)}, "Microsoft.X/ys/write", vm, false},
		{"sibling scope", []Assignment{at("p", "owner", sub+"/resourceGroups/rg2")}, "a/b/read", vm, false},
		{"same prefix, other group", []Assignment{at("p", "owner", sub+"/resourceGroups/r")}, "a/b/read", vm, false},
		{"scope in other case", []Assignment{at("p", "owner", strings.ToUpper(vm))}, "a/b/read", vm, true},
		{"below", []Assignment{at("p", "owner", vm)}, "a/b/read", sub, false},
		{"data roles grant no actions", []Assignment{at("p", "data", sub)}, "Microsoft.X/ys/data/read", vm, false},
		{"unknown role", []Assignment{at("p", "gone", sub)}, "a/b/read", vm, false},
	} {
		if got := Allowed(c.assignments, definitions, "p", c.action, resourceid.MustParse(c.scope)); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	data := []Assignment{at("p", "data", sub), at("p", "owner", sub)}
	for action, want := range map[string]bool{"Microsoft.X/ys/data/read": true, "Microsoft.X/ys/data/delete": false, "Microsoft.X/ys/other": false} {
		if got := DataAllowed(data, definitions, "p", action, resourceid.MustParse(vm)); got != want {
			t.Errorf("%s: %v", action, got)
		}
	}
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		pattern, action string
		want            bool
	}{
		{"*", "a/b/c", true}, {"*/read", "a/b/read", true}, {"*/read", "read", false}, {"a/*/write", "a/b/c/write", true}, {"a/*/write", "a/write", true}, {"a/*/b/*/c", "a/b/x/c", true}, {"a/*/write", "a/xwrite", false},
		{"a/b", "A/B", true}, {"a/b", "a/bc", false}, {"a/*/x/*", "a/x/x/x", true}, {"a/*b", "a/ab", true}, {"ab*ba", "aba", false}, {"", "", true},
	} {
		if got := Matches(c.pattern, c.action); got != c.want {
			t.Errorf("%s on %s: %v", c.pattern, c.action, got)
		}
	}
}

// Without slashes a pattern means what path.Match means.
func TestMatchesProperty(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	word := func(letters string) string {
		b := make([]byte, r.IntN(7))
		for i := range b {
			b[i] = letters[r.IntN(len(letters))]
		}
		return string(b)
	}
	for range 20000 {
		pattern, action := word("ab*"), word("ab")
		want, err := path.Match(pattern, action)
		if err != nil {
			t.Fatal(err)
		}
		if Matches(pattern, action) != want {
			t.Fatalf("%q on %q: not %v", pattern, action, want)
		}
	}
}
