package resourceid

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		in, text, subscription, group, namespace, kind, name, parent string
		names                                                        []string
	}{
		{in: "/", text: "/"},
		{in: "//subscriptions//S/", text: "/subscriptions/S", subscription: "S", kind: "Microsoft.Resources/subscriptions", name: "S", parent: "/"},
		{in: "/Subscriptions/S/resourcegroups/G", text: "/Subscriptions/S/resourcegroups/G", subscription: "S", group: "G", kind: "Microsoft.Resources/resourceGroups", name: "G", parent: "/subscriptions/S"},
		{in: "/subscriptions/S/resourceGroups/G/providers/N.X/ts/a/us/b", subscription: "S", group: "G", namespace: "N.X", kind: "N.X/ts/us", name: "b",
			parent: "/subscriptions/S/resourceGroups/G/providers/N.X/ts/a", names: []string{"a", "b"}},
		{in: "/subscriptions/S/providers/N.X/ts/a", subscription: "S", namespace: "N.X", kind: "N.X/ts", name: "a", parent: "/subscriptions/S", names: []string{"a"}},
		{in: "/providers/N.X/ts/a", namespace: "N.X", kind: "N.X/ts", name: "a", parent: "/", names: []string{"a"}},
		{in: "/subscriptions/S/resourceGroups/G/providers/N.X/ts/a/providers/M.Y/ls/l", subscription: "S", group: "G", namespace: "M.Y", kind: "M.Y/ls", name: "l",
			parent: "/subscriptions/S/resourceGroups/G/providers/N.X/ts/a", names: []string{"l"}},
		{in: "/subscriptions/S/providers/Microsoft.Features/providers/N.X/features/f", subscription: "S", namespace: "Microsoft.Features",
			kind: "Microsoft.Features/providers/features", name: "f", parent: "/subscriptions/S/providers/Microsoft.Features/providers/N.X", names: []string{"N.X", "f"}},
	} {
		id, err := Parse(c.in)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if c.text == "" {
			c.text = c.in
		}
		parent, has := id.Parent()
		if id.String() != c.text || id.Subscription() != c.subscription || id.ResourceGroup() != c.group || id.Namespace() != c.namespace ||
			id.Type() != c.kind || id.Name() != c.name || has == (c.parent == "") || has && parent.String() != c.parent || !reflect.DeepEqual(id.Names(), c.names) {
			t.Errorf("%s is %q: subscription %q group %q namespace %q type %q name %q names %v parent %q", c.in, id, id.Subscription(), id.ResourceGroup(),
				id.Namespace(), id.Type(), id.Name(), id.Names(), parent)
		}
	}
	for _, bad := range []string{"", "x", "/x", "/subscriptions", "/subscriptions/S/resourceGroups", "/subscriptions/S/providers", "/subscriptions/S/providers/N.X",
		"/subscriptions/S/providers/N.X/ts", "/subscriptions/S/providers/N.X/ts/a/us", "/subscriptions/S/x/y", "/subscriptions/S?x", "/subscriptions/a\x00", "/" + strings.Repeat("x", MaxLength)} {
		if id, err := Parse(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%.40q is taken for %q, %v", bad, id, err)
		}
	}
}

func TestRelations(t *testing.T) {
	group := Group("S", "G")
	a := group.Resource("N.X/ts", "a")
	ab := group.Resource("N.X/ts", "ab")
	child := a.Child("us", "b")
	for _, c := range []struct {
		outer, inner ID
		want         bool
	}{
		{ID{}, a, true}, {group, a, true}, {a, a, true}, {a, child, true}, {child, a, false}, {a, ab, false},
		{MustParse(strings.ToUpper(group.String())), child, true}, {Group("S", "G2"), a, false},
	} {
		if got := c.outer.Contains(c.inner); got != c.want {
			t.Errorf("%s contains %s: %v", c.outer, c.inner, got)
		}
	}
	if !a.Equal(MustParse(strings.ToLower(a.String()))) || a.Equal(ab) || !a.Is("n.x/TS") || !child.GroupID().Equal(group) {
		t.Error("comparing without regard to case is broken")
	}
	b, err := json.Marshal(struct{ ID, None ID }{ID: child})
	if err != nil || string(b) != `{"ID":"`+child.String()+`","None":"/"}` {
		t.Errorf("%s, %v", b, err)
	}
	var back struct{ ID, None ID }
	if err := json.Unmarshal(b, &back); err != nil || !back.ID.Equal(child) || !back.None.IsZero() {
		t.Errorf("%+v, %v", back, err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"/", "/subscriptions/S/resourceGroups/G/providers/N/t/n", "/subscriptions/S/providers/Microsoft.Features/providers/N/features/f", "//a//", "/providers/providers/providers/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := Parse(s)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		again, err := Parse(id.String())
		if err != nil || again.String() != id.String() || !again.Equal(id) {
			t.Fatalf("%q prints as %q, which is %q, %v", s, id, again, err)
		}
		steps := 0
		for up, ok := id.Parent(); ok; up, ok = up.Parent() {
			if !up.Contains(id) {
				t.Fatalf("%q lies outside of its parent %q", id, up)
			}
			if steps++; steps > len(s)+2 {
				t.Fatalf("%q has no end of parents", s)
			}
		}
		id.Scope()
		id.Name()
	})
}
