package odatafilter

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestMatch(t *testing.T) {
	names := Names{
		Value: func(path string) (string, bool) {
			v, ok := map[string]string{"name": "Net1", "properties/state": "On", "quote": "it's", "n": "5"}[path]
			return v, ok
		},
		Call: func(name string, args []string) bool { return name == "atScope" && len(args) == 0 },
	}
	for filter, want := range map[string]bool{
		"":                              true,
		"name eq 'net1'":                true,
		"name eq 'other'":               false,
		"name ne 'other'":               true,
		"'net1' eq name":                true,
		"properties/state EQ 'on'":      true,
		"quote eq 'it''s'":              true,
		"n gt 4":                        true,
		"missing eq ''":                 false,
		"name eq 'x' or name eq 'net1'": true,
		"name eq 'x' or name eq 'net1' and n eq '6'":   false,
		"(name eq 'x' or name eq 'net1') and n eq '5'": true,
		"not (name eq 'x')":                            true,
		"not name eq 'net1'":                           false,
		"substringof('ET', name)":                      true,
		"startswith(name,'net')":                       true,
		"endswith(name,'2')":                           false,
		"contains(name,'t1') eq true":                  true,
		"contains(name,'t1') eq false":                 false,
		"atScope()":                                    true,
		"atScope() and assignedTo('x')":                false,
		"name eq 'and'":                                false,
	} {
		f, err := Parse(filter)
		if err != nil {
			t.Errorf("%s: %v", filter, err)
			continue
		}
		if got := f.Match(names); got != want {
			t.Errorf("%s is %v, want %v", filter, got, want)
		}
	}
}

func TestParts(t *testing.T) {
	f, err := Parse("atScope() and assignedTo('{abc}') and roleName eq 'AcrPull'")
	if err != nil {
		t.Fatal(err)
	}
	if args, ok := f.Call("ASSIGNEDTO"); !ok || !reflect.DeepEqual(args, []string{"{abc}"}) {
		t.Errorf("assignedTo: %v, %v", args, ok)
	}
	if _, ok := f.Call("other"); ok {
		t.Error("a function that is not there is found")
	}
	if v, ok := f.Equals("rolename"); !ok || v != "AcrPull" {
		t.Errorf("roleName: %s, %v", v, ok)
	}
	var none *Filter
	if _, ok := none.Equals("x"); ok || !none.Match(Names{}) {
		t.Error("no filter must match everything and compare nothing")
	}
}

func TestSyntax(t *testing.T) {
	for _, bad := range []string{
		"name", "name eq", "eq 'x'", "name is 'x'", "name eq 'x", "(name eq 'x'", "name eq 'x')", "f(", "f('a' 'b')", "f(,)", "not", "and",
		"name eq 'x' and", "f() eq 3", strings.Repeat("not ", 100) + "f()", strings.Repeat("(", 100), strings.Repeat("a", 9000),
	} {
		if _, err := Parse(bad); !errors.Is(err, ErrSyntax) {
			t.Errorf("%.40q: %v, want ErrSyntax", bad, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"name eq 'x'", "atScope() and assignedTo('{id}')", "not (a eq 'b' or c ne 1)", "f('it''s',x) eq true", "'", "((("} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		filter, err := Parse(s)
		if err != nil {
			if !errors.Is(err, ErrSyntax) {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		filter.Match(Names{Value: func(string) (string, bool) { return "x", true }})
		filter.Match(Names{})
		filter.Call("f")
		filter.Equals("a")
	})
}
