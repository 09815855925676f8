package registries

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// The admin user is one account per registry with two passwords, for clients that know no identities:
// https://learn.microsoft.com/azure/container-registry/container-registry-authentication#admin-account

// passwordNames are those of the admin user's passwords, by slot.
var passwordNames = [2]string{"password", "password2"}

// Credentials is the answer of listCredentials.
type Credentials struct {
	Username  string     `json:"username"`
	Passwords []Password `json:"passwords"`
}

// Password is one of the admin user's.
type Password struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func (d Deps) listCredentials(_ context.Context, r *resourcetype.ActionRequest[Model]) (any, error) {
	if !r.Model.Properties.AdminUserEnabled {
		return nil, armerror.New("UnauthorizedForCredentialOperations", "Cannot perform credential operations for %s as admin user is disabled. Kindly enable admin user as per docs: https://docs.microsoft.com/en-us/azure/container-registry/container-registry-authentication#admin-account", r.ID).WithStatus(http.StatusBadRequest)
	}
	c := Credentials{Username: r.ID.Name()}
	for slot, generation := range r.Model.Regenerated() {
		c.Passwords = append(c.Passwords, Password{passwordNames[slot], d.Password(r.ID, r.Model.Properties.CreationDate, slot, generation)})
	}
	return c, nil
}

// Regenerated is how often each password was made anew.
func (m *Model) Regenerated() [2]int {
	if m.Cloister == nil {
		return [2]int{}
	}
	return m.Cloister.Regenerated
}

func (d Deps) regenerateCredential(ctx context.Context, r *resourcetype.ActionRequest[Model]) (any, error) {
	var body struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal(r.Body, &body); err != nil {
		return nil, armerror.New(armerror.InvalidRequestContent, "The request content was invalid and could not be deserialized: '%v'.", err)
	}
	slot := slices.IndexFunc(passwordNames[:], func(name string) bool { return strings.EqualFold(name, body.Name) })
	if slot < 0 {
		return nil, armerror.New("InvalidParameter", "The password name '%s' is invalid. Allowed values: %s.", body.Name, strings.Join(passwordNames[:], ", ")).WithTarget("name")
	}
	if r.Model.Properties.AdminUserEnabled { // otherwise listing says that it is not
		count := r.Model.Regenerated()
		count[slot]++
		r.Model.Cloister = &Memory{Regenerated: count}
	}
	return d.listCredentials(ctx, r)
}
