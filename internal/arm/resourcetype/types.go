package resourcetype

import (
	"slices"
	"strings"
)

// Types is the table of all resource types of an installation.
type Types struct {
	byName map[string]Definition
	order  []Definition
}

// NewTypes makes the table. It panics when two definitions have one name.
func NewTypes(definitions ...Definition) *Types {
	t := &Types{byName: map[string]Definition{}}
	for _, d := range definitions {
		k := strings.ToLower(d.Name)
		if _, twice := t.byName[k]; twice {
			panic("resourcetype: " + d.Name + " is defined twice")
		}
		t.byName[k] = d
		t.order = append(t.order, d)
	}
	slices.SortFunc(t.order, func(a, b Definition) int { return strings.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name)) })
	return t
}

// Lookup finds a type by its full name, in any case.
func (t *Types) Lookup(name string) (Definition, bool) {
	d, ok := t.byName[strings.ToLower(name)]
	return d, ok
}

// All are the definitions in order of name.
func (t *Types) All() []Definition { return t.order }

// Namespace finds a namespace's own spelling.
func (t *Types) Namespace(name string) (string, bool) {
	for _, d := range t.order {
		if strings.EqualFold(d.Namespace(), name) {
			return d.Namespace(), true
		}
	}
	return "", false
}
