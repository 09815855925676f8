// Package resourceid parses, prints and compares Azure resource IDs.
//
// IDs are compared without regard to case and keep the case they were written in (ARM common API
// contract, "Resource IDs are case-insensitive"; az lower-cases some and compares others exactly).
// The package knows no resource type.
package resourceid

import (
	"errors"
	"fmt"
	"strings"
)

// MaxLength bounds what Parse accepts, in bytes; ARM's own URL limit leaves less.
const MaxLength = 2048

// ErrInvalid is wrapped by every error of Parse.
var ErrInvalid = errors.New("invalid resource ID")

// ID is a parsed resource ID. The zero value is the tenant root, "/".
//
//	/subscriptions/S                                            a subscription
//	/subscriptions/S/resourceGroups/G                           a resource group
//	/subscriptions/S/resourceGroups/G/providers/NS/T/N[/T/N…]   a resource
//	SCOPE/providers/NS/T/N                                      an extension resource on any of these
type ID struct {
	text         string // as written, single slashes, none at the end
	subscription string
	group        string
	scope        string // text before the last /providers/, "" for the tenant
	namespace    string
	types        []string
	names        []string
}

// Parse reads an ID. Doubled slashes are folded and a trailing one is dropped, as ARM does.
func Parse(s string) (ID, error) {
	if len(s) > MaxLength {
		return ID{}, fmt.Errorf("%w: longer than %d bytes", ErrInvalid, MaxLength)
	}
	if !strings.HasPrefix(s, "/") {
		return ID{}, fmt.Errorf("%w: %q does not start with a slash", ErrInvalid, s)
	}
	var parts []string
	for p := range strings.SplitSeq(s, "/") {
		if p == "" {
			continue
		}
		if strings.ContainsAny(p, "?#\\") || strings.ContainsFunc(p, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
			return ID{}, fmt.Errorf("%w: segment %q", ErrInvalid, p)
		}
		parts = append(parts, p)
	}
	if len(parts) == 0 {
		return ID{}, nil
	}
	id := ID{text: "/" + strings.Join(parts, "/")}
	i := 0
	if strings.EqualFold(parts[0], "subscriptions") {
		if len(parts) < 2 {
			return ID{}, fmt.Errorf("%w: %q names no subscription", ErrInvalid, s)
		}
		id.subscription = parts[1]
		i = 2
		if len(parts) > i && strings.EqualFold(parts[i], "resourceGroups") {
			if len(parts) < i+2 {
				return ID{}, fmt.Errorf("%w: %q names no resource group", ErrInvalid, s)
			}
			id.group = parts[i+1]
			i += 2
		}
	}
	for i < len(parts) {
		if !strings.EqualFold(parts[i], "providers") {
			return ID{}, fmt.Errorf("%w: %q has %q where providers is due", ErrInvalid, s, parts[i])
		}
		if i > 0 {
			id.scope = "/" + strings.Join(parts[:i], "/")
		}
		i++
		id.namespace, id.types, id.names = "", nil, nil
		if i >= len(parts) {
			return ID{}, fmt.Errorf("%w: %q names no resource provider", ErrInvalid, s)
		}
		id.namespace = parts[i]
		i++
		for i < len(parts) && !(strings.EqualFold(parts[i], "providers") && len(id.types) > 0) {
			if i+1 >= len(parts) {
				return ID{}, fmt.Errorf("%w: %q ends in a type without a name", ErrInvalid, s)
			}
			id.types = append(id.types, parts[i])
			id.names = append(id.names, parts[i+1])
			i += 2
		}
		if len(id.types) == 0 {
			return ID{}, fmt.Errorf("%w: %q names no resource type", ErrInvalid, s)
		}
	}
	return id, nil
}

// MustParse is Parse for IDs that the program itself composed.
func MustParse(s string) ID {
	id, err := Parse(s)
	if err != nil {
		panic(err)
	}
	return id
}

// String is the ID as written.
func (id ID) String() string {
	if id.text == "" {
		return "/"
	}
	return id.text
}

// Key is the form in which two IDs of the same resource are equal.
func (id ID) Key() string { return strings.ToLower(id.String()) }

// Equal reports whether both name the same resource.
func (id ID) Equal(other ID) bool { return strings.EqualFold(id.String(), other.String()) }

// IsZero reports whether the ID is the tenant root.
func (id ID) IsZero() bool { return id.text == "" }

// Subscription is the subscription's ID, or "".
func (id ID) Subscription() string { return id.subscription }

// ResourceGroup is the resource group's name, or "".
func (id ID) ResourceGroup() string { return id.group }

// Namespace is the resource provider's namespace as written, such as Microsoft.Network, or "".
func (id ID) Namespace() string { return id.namespace }

// Type is the full resource type as written. Resource groups and subscriptions have the types ARM gives them.
func (id ID) Type() string {
	switch {
	case len(id.types) > 0:
		return id.namespace + "/" + strings.Join(id.types, "/")
	case id.group != "":
		return "Microsoft.Resources/resourceGroups"
	case id.subscription != "":
		return "Microsoft.Resources/subscriptions"
	}
	return ""
}

// Is reports whether the ID is of the resource type, in any case.
func (id ID) Is(resourceType string) bool { return strings.EqualFold(id.Type(), resourceType) }

// Name is the last name in the ID.
func (id ID) Name() string {
	switch {
	case len(id.names) > 0:
		return id.names[len(id.names)-1]
	case id.group != "":
		return id.group
	}
	return id.subscription
}

// Names are the names from the outermost resource of the type to the innermost.
func (id ID) Names() []string { return append([]string(nil), id.names...) }

// Scope is what an extension resource extends, or the resource group, subscription or tenant a resource lies in.
func (id ID) Scope() ID {
	if len(id.types) == 0 {
		p, _ := id.Parent()
		return p
	}
	if id.scope == "" {
		return ID{}
	}
	return MustParse(id.scope)
}

// Parent is the resource, group or subscription that holds this one; false for the tenant root.
func (id ID) Parent() (ID, bool) {
	switch {
	case len(id.types) > 1:
		cut := id.text[:strings.LastIndex(id.text, "/")]
		return MustParse(cut[:strings.LastIndex(cut, "/")]), true
	case len(id.types) == 1:
		return id.Scope(), true
	case id.group != "":
		return MustParse("/subscriptions/" + id.subscription), true
	case id.subscription != "":
		return ID{}, true
	}
	return ID{}, false
}

// Contains reports whether other is this resource or lies in it, at any depth.
func (id ID) Contains(other ID) bool {
	if id.IsZero() {
		return true
	}
	a, b := id.Key(), other.Key()
	return a == b || strings.HasPrefix(b, a+"/")
}

// Child is the resource of the given child type and name in this one.
func (id ID) Child(childType, name string) ID {
	return MustParse(id.String() + "/" + childType + "/" + name)
}

// Resource is the resource of namespace/type in this scope: names outermost first, one per part of the type.
func (id ID) Resource(fullType string, names ...string) ID {
	parts := strings.Split(fullType, "/")
	var b strings.Builder
	if !id.IsZero() {
		b.WriteString(id.String())
	}
	b.WriteString("/providers/" + parts[0])
	for i, t := range parts[1:] {
		b.WriteString("/" + t + "/" + names[i])
	}
	return MustParse(b.String())
}

// Group is the resource group of the name in the subscription.
func Group(subscription, name string) ID {
	return MustParse("/subscriptions/" + subscription + "/resourceGroups/" + name)
}

// GroupID is the resource group the resource lies in; the zero ID when it lies in none.
func (id ID) GroupID() ID {
	if id.group == "" {
		return ID{}
	}
	return Group(id.subscription, id.group)
}

// MarshalText makes IDs JSON strings.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText is the reverse of MarshalText; an empty string is the zero ID.
func (id *ID) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*id = ID{}
		return nil
	}
	parsed, err := Parse(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}
