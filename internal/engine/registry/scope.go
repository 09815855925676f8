package registry

import "strings"

// maxScopes bounds what one token may be asked for.
const maxScopes = 64

// access is one entry of a token's scope.
// https://distribution.github.io/distribution/spec/auth/scope/
type access struct {
	Type    string   `json:"type"` // "repository" or "registry"
	Name    string   `json:"name"` // of the repository, or "catalog"
	Actions []string `json:"actions"`
}

type scope []access

// parseScope reads the scope parameters of a token request. What is not understood is not granted.
func parseScope(parameters []string) scope {
	var s scope
	for _, parameter := range parameters {
		for word := range strings.FieldsSeq(parameter) {
			if len(s) == maxScopes {
				return s
			}
			kind, rest, _ := strings.Cut(word, ":")
			name, actions, ok := cutLast(rest, ":")
			if !ok {
				continue
			}
			switch {
			case kind == "repository" && isRepository(name):
			case kind == "registry" && name == "catalog":
			default:
				continue
			}
			s = append(s, access{Type: kind, Name: name, Actions: strings.Split(actions, ",")})
		}
	}
	return s
}

// aclAction is what an action of a scope takes of Registry.Access, "" when it is not known.
func aclAction(kind, action string) string {
	if kind == "registry" {
		if action == "*" {
			return List
		}
		return ""
	}
	switch action {
	case "pull", "metadata_read":
		return Pull
	case "push", "metadata_write":
		return Push
	case "delete":
		return Delete
	}
	return ""
}

// grant is the part of s that principal may have.
func (s scope) grant(r *registry, principal string) scope {
	granted := scope{}
	for _, asked := range s {
		actions := asked.Actions
		if asked.Type == "repository" && len(actions) == 1 && actions[0] == "*" {
			actions = []string{"pull", "push", "delete", "metadata_read", "metadata_write"}
		}
		entry := access{Type: asked.Type, Name: asked.Name}
		for _, action := range actions {
			if need := aclAction(asked.Type, action); need != "" && r.allows(principal, need) {
				entry.Actions = append(entry.Actions, action)
			}
		}
		if len(entry.Actions) > 0 {
			granted = append(granted, entry)
		}
	}
	return granted
}

// has reports whether s covers an action of Registry.Access on the repository, or on the catalog for "".
func (s scope) has(repository, action string) bool {
	for _, entry := range s {
		if repository == "" && entry.Type != "registry" || repository != "" && (entry.Type != "repository" || entry.Name != repository) {
			continue
		}
		for _, a := range entry.Actions {
			if aclAction(entry.Type, a) == action {
				return true
			}
		}
	}
	return false
}
