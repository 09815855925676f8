package wire

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/cloister-dev/cloister/internal/engine/identity"
)

// wantError holds an answer's status and its error's code, and returns the message.
func wantError(t *testing.T, a answer, status int, code string) string {
	t.Helper()
	message, _ := a.at("error.message").(string)
	if a.StatusCode != status || a.at("error.code") != code || message == "" {
		t.Errorf("%s %s answers %d %s, want %d %s", a.Request.Method, a.Request.URL.Path, a.StatusCode, a.body, status, code)
	}
	return message
}

// Every call needs a token of the tenant's own authority, for ARM, in time.
func TestTokens(t *testing.T) {
	i := install(t)
	owner := i.in.Administrator.ObjectID
	// Another installation's keys.
	dir := t.TempDir()
	foreign, err := identity.OpenKeys(filepath.Join(dir, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	forged, err := identity.NewIssuer(foreign, nil).Issue(identity.Claims{TenantID: i.in.TenantID, ObjectID: owner, AppID: owner, Audience: management})
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := i.issuer.Issue(identity.Claims{TenantID: uuid.NewString(), ObjectID: owner, AppID: owner, Audience: management})
	if err != nil {
		t.Fatal(err)
	}
	yesterday := identity.NewIssuer(i.keys, func() time.Time { return time.Now().Add(-24 * time.Hour) })
	old, err := yesterday.Issue(identity.Claims{TenantID: i.in.TenantID, ObjectID: owner, AppID: owner, Audience: management, Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(i.token(owner, management, time.Hour), ".")
	for name, c := range map[string]struct{ authorization, code string }{
		"none":              {"", "AuthenticationFailed"},
		"no bearer":         {"Basic YTpi", "AuthenticationFailed"},
		"no JWT":            {"Bearer abc", "InvalidAuthenticationToken"},
		"expired":           {"Bearer " + old.Value, "ExpiredAuthenticationToken"},
		"for a registry":    {"Bearer " + i.token(owner, "https://containerregistry.azure.net", time.Hour), "InvalidAuthenticationToken"},
		"another's key":     {"Bearer " + forged.Value, "InvalidAuthenticationToken"},
		"another tenant's":  {"Bearer " + stranger.Value, "InvalidAuthenticationToken"},
		"unsigned":          {"Bearer eyJhbGciOiJub25lIn0." + parts[1] + ".", "InvalidAuthenticationToken"},
		"without signature": {"Bearer " + parts[0] + "." + parts[1] + ".", "InvalidAuthenticationToken"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, path := range []string{i.group(), "/subscriptions", i.clusterID("x"), i.subscription() + "/providers"} {
				a := i.do(http.MethodGet, path, "", "Authorization", c.authorization)
				wantError(t, a, http.StatusUnauthorized, c.code)
				if challenge := a.Header.Get("WWW-Authenticate"); !strings.HasPrefix(challenge, "Bearer ") || !strings.Contains(challenge, i.in.TenantID) {
					t.Errorf("challenge %q", challenge)
				}
			}
		})
	}
	for _, audience := range []string{management, "https://management.core.windows.net/"} {
		i.want(http.StatusOK, i.do(http.MethodGet, i.group(), "", "Authorization", "Bearer "+i.token(owner, audience, time.Hour)))
	}
}

// assign gives a principal a role by ARM itself.
func (i *installation) assign(object, role, scope string) (name string) {
	i.t.Helper()
	name = scope + "/providers/Microsoft.Authorization/roleAssignments/" + uuid.NewString()
	i.want(http.StatusCreated, i.do(http.MethodPut, name, `{"properties":{"principalId":"`+object+`","principalType":"ServicePrincipal","roleDefinitionId":"`+i.subscription()+`/providers/Microsoft.Authorization/roleDefinitions/`+role+`"}}`))
	return name
}

// Built-in roles.
const (
	reader             = "acdd72a7-3385-48ef-bd42-f606fba81ae7"
	contributor        = "b24988ac-6180-42a0-ab88-20f7382dd24c"
	networkContributor = "4d97b98b-1d4f-4787-a291-c67834d212e7"
)

func TestRoles(t *testing.T) {
	i := install(t)
	vnet := i.group() + "/providers/Microsoft.Network/virtualNetworks/vnet"
	i.put(vnet, `{"location":"eastus","properties":{"addressSpace":{"addressPrefixes":["10.0.0.0/8"]},"subnets":[{"name":"aks","properties":{"addressPrefix":"10.1.0.0/16"}}]}}`)
	i.want(http.StatusCreated, i.do(http.MethodPut, i.subscription()+"/resourceGroups/clusters", `{"location":"eastus"}`))

	// Known to the directory, as identities are.
	i.want(http.StatusCreated, i.do(http.MethodPut, i.group()+"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/dev", `{"location":"eastus"}`))
	dev, _ := i.do(http.MethodGet, i.group()+"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/dev", "").at("properties.principalId").(string)
	as := func(method, path, body string) answer {
		return i.do(method, path, body, "Authorization", "Bearer "+i.token(dev, management, time.Hour))
	}
	subscription := i.subscription() + "/resourceGroups/clusters"
	cluster1 := subscription + "/providers/Microsoft.ContainerService/managedClusters/c1"

	message := wantError(t, as(http.MethodGet, vnet, ""), http.StatusForbidden, "AuthorizationFailed")
	for _, part := range []string{"with object id '" + dev + "'", "'Microsoft.Network/virtualNetworks/read'", "over scope '" + vnet + "'", "refresh your credentials"} {
		if !strings.Contains(message, part) {
			t.Errorf("%q is not in %s", part, message)
		}
	}
	wantError(t, as(http.MethodPut, cluster1, cluster("")), http.StatusForbidden, "AuthorizationFailed")
	if message := wantError(t, as(http.MethodGet, i.group()+"/resources", ""), http.StatusForbidden, "AuthorizationFailed"); !strings.Contains(message, "'Microsoft.Resources/subscriptions/resourceGroups/resources/read' over scope '"+i.group()+"'") {
		t.Errorf("a group's resources without a role: %s", message)
	}
	if list := i.want(http.StatusOK, as(http.MethodGet, i.subscription()+"/resources", "")); string(list.body) != `{"value":[]}` {
		t.Errorf("resources shown to a principal without roles: %s", list.body)
	}
	if groups := i.want(http.StatusOK, as(http.MethodGet, i.subscription()+"/resourceGroups", "")); groups.at("value") == nil || strings.Contains(string(groups.body), `"rg"`) {
		t.Errorf("groups shown to a principal without roles: %s", groups.body)
	}

	// Network Contributor reads the groups that it is in: roles have a name of their own for that.
	own := i.assign(dev, networkContributor, i.group())
	i.want(http.StatusOK, as(http.MethodGet, i.group(), ""))
	wantError(t, as(http.MethodDelete, i.group(), ""), http.StatusForbidden, "AuthorizationFailed")
	i.want(http.StatusOK, i.do(http.MethodDelete, own, ""))

	assignment := i.assign(dev, reader, i.group())
	i.want(http.StatusOK, as(http.MethodGet, vnet, ""))
	wantError(t, as(http.MethodPut, vnet, `{"location":"eastus","properties":{"addressSpace":{"addressPrefixes":["10.0.0.0/8"]}}}`), http.StatusForbidden, "AuthorizationFailed")
	wantError(t, as(http.MethodDelete, vnet, ""), http.StatusForbidden, "AuthorizationFailed")
	wantError(t, as(http.MethodGet, cluster1, ""), http.StatusForbidden, "AuthorizationFailed") // another group

	// Contributor where the cluster is, reader where its subnet is: the subnet may not be joined.
	i.assign(dev, contributor, subscription)
	body := cluster(vnet + "/subnets/aks")
	message = wantError(t, as(http.MethodPut, cluster1, body), http.StatusForbidden, "LinkedAuthorizationFailed")
	for _, part := range []string{"has permission to perform action 'Microsoft.ContainerService/managedClusters/write'", "'Microsoft.Network/virtualNetworks/subnets/join/action'", vnet + "/subnets/aks"} {
		if !strings.Contains(message, part) {
			t.Errorf("%q is not in %s", part, message)
		}
	}
	// A contributor may not give roles.
	wantError(t, as(http.MethodPut, subscription+"/providers/Microsoft.Authorization/roleAssignments/"+uuid.NewString(),
		`{"properties":{"principalId":"`+dev+`","roleDefinitionId":"`+i.subscription()+`/providers/Microsoft.Authorization/roleDefinitions/`+contributor+`"}}`), http.StatusForbidden, "AuthorizationFailed")
	join := i.assign(dev, networkContributor, vnet+"/subnets/aks")
	created := i.want(http.StatusCreated, as(http.MethodPut, cluster1, body))
	if s := i.settled(created); s.at("status") != "Succeeded" {
		t.Errorf("the cluster of a contributor: %s", s.body)
	}
	i.want(http.StatusOK, as(http.MethodPost, cluster1+"/listClusterUserCredential", ""))

	// Roles that are taken away are gone at once.
	i.want(http.StatusOK, i.do(http.MethodDelete, join, ""))
	wantError(t, as(http.MethodPut, cluster1, body), http.StatusForbidden, "LinkedAuthorizationFailed")
	i.want(http.StatusOK, i.do(http.MethodDelete, assignment, ""))
	wantError(t, as(http.MethodGet, vnet, ""), http.StatusForbidden, "AuthorizationFailed")
}
