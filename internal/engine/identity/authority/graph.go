package authority

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/cloister-dev/cloister/internal/engine/identity"
)

// maxIDs is how many objects getByIds may ask for at once.
// https://learn.microsoft.com/graph/api/directoryobject-getbyids
const maxIDs = 1000

// reader verifies the token of a Graph request.
func (a *Authority) reader(r *http.Request) (identity.Claims, error) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return identity.Claims{}, &graphError{http.StatusUnauthorized, "InvalidAuthenticationToken", "Access token is empty."}
	}
	c, err := a.graph.Verify(token)
	if err != nil {
		return identity.Claims{}, &graphError{http.StatusUnauthorized, "InvalidAuthenticationToken", err.Error() + "."}
	}
	return c, nil
}

// object is a principal as a Graph resource.
func object(p Principal) map[string]any {
	if p.Type == User {
		return map[string]any{
			"@odata.type": "#microsoft.graph.user", "id": p.ObjectID, "displayName": p.DisplayName,
			"userPrincipalName": p.UserPrincipalName, "mail": nil,
		}
	}
	kind, names, alternative := "Application", []string{p.AppID}, []string{}
	if p.ManagedIdentity != "" {
		kind = "ManagedIdentity"
		alternative = []string{"isExplicit=True", p.ManagedIdentity}
	}
	return map[string]any{
		"@odata.type": "#microsoft.graph.servicePrincipal", "id": p.ObjectID, "appId": p.AppID,
		"displayName": p.DisplayName, "appDisplayName": p.DisplayName, "servicePrincipalType": kind,
		"servicePrincipalNames": names, "alternativeNames": alternative, "accountEnabled": true,
	}
}

// condition is one comparison of an OData filter, in the forms az and Terraform write:
// servicePrincipalNames/any(c:c eq 'x'), appId eq 'x', startswith(displayName,'x').
var condition = regexp.MustCompile(`(?i)^\s*(?:` +
	`(?P<any>\w+)/any\(\s*(?P<v1>\w+)\s*:\s*(?P<v2>\w+)\s+eq\s+'(?P<anyval>(?:[^']|'')*)'\s*\)` +
	`|startswith\(\s*(?P<starts>\w+)\s*,\s*'(?P<startsval>(?:[^']|'')*)'\s*\)` +
	`|(?P<eq>\w+)\s+eq\s+'(?P<eqval>(?:[^']|'')*)')\s*$`)

// parseFilter turns an OData filter into a test. Conditions may be joined by "and", and those by "or".
func parseFilter(filter string) (func(map[string]any) bool, error) {
	if strings.TrimSpace(filter) == "" {
		return func(map[string]any) bool { return true }, nil
	}
	if len(filter) > 4096 {
		return nil, errors.New("filter too long")
	}
	var some []func(map[string]any) bool
	for _, part := range splitAt(filter, " or ") {
		all, err := parseConditions(part)
		if err != nil {
			return nil, err
		}
		some = append(some, all)
	}
	return func(o map[string]any) bool {
		return slices.ContainsFunc(some, func(t func(map[string]any) bool) bool { return t(o) })
	}, nil
}

// parseConditions reads conditions that must all hold.
func parseConditions(filter string) (func(map[string]any) bool, error) {
	var tests []func(map[string]any) bool
	for _, part := range splitAt(filter, " and ") {
		m := condition.FindStringSubmatch(part)
		if m == nil {
			return nil, fmt.Errorf("filter condition %q is not supported", strings.TrimSpace(part))
		}
		get := func(name string) string { return m[condition.SubexpIndex(name)] }
		value := func(name string) string { return strings.ReplaceAll(get(name), "''", "'") }
		switch {
		case get("any") != "":
			property, want := get("any"), value("anyval")
			if get("v1") != get("v2") {
				return nil, fmt.Errorf("filter condition %q is not supported", strings.TrimSpace(part))
			}
			tests = append(tests, func(o map[string]any) bool {
				list, _ := attribute(o, property).([]string)
				return slices.ContainsFunc(list, func(s string) bool { return strings.EqualFold(s, want) })
			})
		case get("starts") != "":
			property, want := get("starts"), strings.ToLower(value("startsval"))
			tests = append(tests, func(o map[string]any) bool {
				s, ok := attribute(o, property).(string)
				return ok && strings.HasPrefix(strings.ToLower(s), want)
			})
		default:
			property, want := get("eq"), value("eqval")
			tests = append(tests, func(o map[string]any) bool {
				s, ok := attribute(o, property).(string)
				return ok && strings.EqualFold(s, want)
			})
		}
	}
	return func(o map[string]any) bool {
		return !slices.ContainsFunc(tests, func(t func(map[string]any) bool) bool { return !t(o) })
	}, nil
}

// splitAt splits at a word outside of string literals.
func splitAt(filter, word string) []string {
	var parts []string
	quoted, start := false, 0
	for i := 0; i < len(filter); i++ {
		if filter[i] == '\'' {
			quoted = !quoted
		}
		if !quoted && i+len(word) <= len(filter) && strings.EqualFold(filter[i:i+len(word)], word) {
			parts = append(parts, filter[start:i])
			start, i = i+len(word), i+len(word)-1
		}
	}
	return append(parts, filter[start:])
}

// attribute is the property of an object; OData names are matched without regard to case, as Graph does.
func attribute(o map[string]any, name string) any {
	for k, v := range o {
		if strings.EqualFold(k, name) {
			return v
		}
	}
	return nil
}

func (a *Authority) graphList(kind PrincipalType, set string) handler {
	return func(r *http.Request) (any, error) {
		if _, err := a.reader(r); err != nil {
			return nil, err
		}
		test, err := parseFilter(r.URL.Query().Get("$filter"))
		if err != nil {
			return nil, &graphError{http.StatusBadRequest, "Request_UnsupportedQuery", err.Error()}
		}
		all, err := a.Directory.Principals(r.Context())
		if err != nil {
			return nil, err
		}
		value := []map[string]any{}
		for _, p := range all {
			if o := object(p); p.Type == kind && test(o) {
				delete(o, "@odata.type")
				value = append(value, o)
			}
		}
		return map[string]any{"@odata.context": base(r) + "/v1.0/$metadata#" + set, "value": value}, nil
	}
}

func (a *Authority) graphGet(kind PrincipalType, set string) handler {
	return func(r *http.Request) (any, error) {
		if _, err := a.reader(r); err != nil {
			return nil, err
		}
		return a.graphObject(r, r.PathValue("id"), kind, set)
	}
}

func (a *Authority) graphObject(r *http.Request, id string, kind PrincipalType, set string) (any, error) {
	p, err := a.Directory.Principal(r.Context(), id)
	// An application ID is found as well, but the URL of a service principal has its object ID.
	if errors.Is(err, ErrNotFound) || err == nil && (p.Type != kind || strings.EqualFold(p.AppID, id)) {
		return nil, &graphError{http.StatusNotFound, "Request_ResourceNotFound",
			fmt.Sprintf("Resource '%.64s' does not exist or one of its queried reference-property objects are not present.", id)}
	}
	if err != nil {
		return nil, err
	}
	o := object(p)
	delete(o, "@odata.type")
	o["@odata.context"] = base(r) + "/v1.0/$metadata#" + set + "/$entity"
	return o, nil
}

func (a *Authority) graphMe(r *http.Request) (any, error) {
	c, err := a.reader(r)
	if err != nil {
		return nil, err
	}
	if c.IDType != identity.User {
		return nil, &graphError{http.StatusBadRequest, "BadRequest", "/me request is only valid with delegated authentication flow."}
	}
	return a.graphObject(r, c.ObjectID, User, "users")
}

func (a *Authority) graphByIDs(r *http.Request) (any, error) {
	if _, err := a.reader(r); err != nil {
		return nil, err
	}
	var body struct {
		IDs   []string `json:"ids"`
		Types []string `json:"types"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		return nil, &graphError{http.StatusBadRequest, "BadRequest", "Unable to read JSON request payload."}
	}
	if len(body.IDs) > maxIDs {
		return nil, &graphError{http.StatusBadRequest, "Directory_ResultSizeLimitExceeded", fmt.Sprintf("At most %d ids may be given.", maxIDs)}
	}
	value := []map[string]any{}
	for _, id := range body.IDs {
		p, err := a.Directory.Principal(r.Context(), id)
		if errors.Is(err, ErrNotFound) || err == nil && !strings.EqualFold(p.ObjectID, id) {
			continue // objects that are not there are left out, not an error
		}
		if err != nil {
			return nil, err
		}
		o := object(p)
		kind := strings.TrimPrefix(o["@odata.type"].(string), "#microsoft.graph.")
		if len(body.Types) == 0 || slices.ContainsFunc(body.Types, func(t string) bool { return strings.EqualFold(t, kind) || t == "directoryObject" }) {
			value = append(value, o)
		}
	}
	return map[string]any{"@odata.context": base(r) + "/v1.0/$metadata#directoryObjects", "value": value}, nil
}
