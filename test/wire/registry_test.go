package wire

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerregistry/armcontainerregistry"

	"github.com/cloister-dev/cloister/internal/engine/registry"
	"github.com/cloister-dev/cloister/internal/lib/atomicfile"
)

// registries makes a client and the registries named.
func (i *installation) registries(names ...string) *armcontainerregistry.RegistriesClient {
	i.t.Helper()
	client, err := armcontainerregistry.NewRegistriesClient(i.in.SubscriptionID, i.owner(), i.options())
	if err != nil {
		i.t.Fatal(err)
	}
	for _, name := range names {
		begun, err := client.BeginCreate(i.t.Context(), "rg", name, armcontainerregistry.Registry{
			Location: to.Ptr("eastus"), SKU: &armcontainerregistry.SKU{Name: to.Ptr(armcontainerregistry.SKUNamePremium)},
		}, nil)
		finish(i.t, begun, err)
	}
	return client
}

func (i *installation) registryID(name string) string {
	return i.group() + "/providers/Microsoft.ContainerRegistry/registries/" + name
}

// end plays the registry's part: it takes the one order there is, and ends it as change says.
func (i *installation) end(change func(*registry.Import)) (order registry.Import) {
	i.t.Helper()
	files, err := filepath.Glob(filepath.Join(i.imports.Dir, "imports", "*.json"))
	if err != nil || len(files) != 1 {
		i.t.Fatalf("orders: %v, %v", files, err)
	}
	id := strings.TrimSuffix(filepath.Base(files[0]), ".json")
	if order, err = i.imports.Outcome(id); err != nil {
		i.t.Fatal(err)
	}
	ended := order
	ended.Ended = time.Now()
	change(&ended)
	if err := atomicfile.WriteJSON(files[0], ended, 0o600); err != nil {
		i.t.Fatal(err)
	}
	return order
}

// az acr import: 202 and Location, 202 while it runs, 200 or the import's own error.
func TestImportImage(t *testing.T) {
	t.Parallel()
	i := install(t)
	client := i.registries("target001", "source001")
	ctx := t.Context()
	begun, err := client.BeginImportImage(ctx, "rg", "target001", armcontainerregistry.ImportImageParameters{
		Source:     &armcontainerregistry.ImportSource{RegistryURI: to.Ptr("mcr.microsoft.com"), SourceImage: to.Ptr("azuredocs/aks-helloworld:v1")},
		TargetTags: []*string{to.Ptr("hello:v1")}, Mode: to.Ptr(armcontainerregistry.ImportModeNoForce),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if response, err := begun.Poll(ctx); err != nil || response.StatusCode != http.StatusAccepted || begun.Done() {
		t.Fatalf("while it runs: %v, %v", response, err)
	}
	order := i.end(func(o *registry.Import) { o.State = registry.ImportSucceeded })
	if order.Target != "target001.azurecr.io" || order.Source != (registry.ImportSource{Host: "mcr.microsoft.com", Image: "azuredocs/aks-helloworld:v1"}) ||
		!slices.Equal(order.Tags, []string{"hello:v1"}) || order.Force {
		t.Errorf("%+v", order)
	}
	if _, err := begun.PollUntilDone(ctx, &runtime.PollUntilDoneOptions{Frequency: time.Millisecond}); err != nil {
		t.Error(err)
	}
	os.RemoveAll(filepath.Join(i.imports.Dir, "imports"))

	begun, err = client.BeginImportImage(ctx, "rg", "target001", armcontainerregistry.ImportImageParameters{
		Source: &armcontainerregistry.ImportSource{ResourceID: to.Ptr(i.registryID("source001")), SourceImage: to.Ptr("app:1")}, TargetTags: []*string{to.Ptr("app:1")},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	order = i.end(func(o *registry.Import) {
		o.State, o.Status, o.Code, o.Message = registry.ImportFailed, 409, "Conflict", "Tag app:1 already exists in target registry."
	})
	if order.Source != (registry.ImportSource{Host: "source001.azurecr.io", Image: "app:1", Trusted: true}) {
		t.Errorf("%+v", order)
	}
	_, err = begun.PollUntilDone(ctx, &runtime.PollUntilDoneOptions{Frequency: time.Millisecond})
	var failure *azcore.ResponseError
	if !errors.As(err, &failure) || failure.StatusCode != 409 || failure.ErrorCode != "Conflict" || !strings.Contains(err.Error(), "Tag app:1 already exists in target registry.") {
		t.Errorf("%v", err)
	}

	importInto := func(body string) answer { return i.do(http.MethodPost, i.registryID("target001")+"/importImage", body) }
	for body, code := range map[string]string{
		`{"source":{"registryUri":"mcr.microsoft.com"},"targetTags":["a:1"]}`:                                          "InvalidParameters",
		`{"source":{"registryUri":"mcr.microsoft.com","sourceImage":"a:1"}}`:                                           "InvalidParameters",
		`{"source":{"sourceImage":"a:1"},"targetTags":["a:1"]}`:                                                        "InvalidParameters",
		`{"source":{"registryUri":"mcr.microsoft.com","sourceImage":"a:1"},"targetTags":["a:1"],"mode":"Maybe"}`:       "InvalidParameters",
		`{"source":{"registryUri":"quay.io","sourceImage":"a:1","credentials":{"password":"x"}},"targetTags":["a:1"]}`: "NotSupported",
		`{"source":{"resourceId":"` + i.group() + `","sourceImage":"a:1"},"targetTags":["a:1"]}`:                       "InvalidParameters",
		`{"source":{"resourceId":"` + i.registryID("nobody") + `","sourceImage":"a:1"},"targetTags":["a:1"]}`:          "ResourceNotFound",
	} {
		if a := importInto(body); a.at("error.code") != code {
			t.Errorf("%s: %d %s, want %s", body, a.StatusCode, a.body, code)
		}
	}
	if a := i.do(http.MethodGet, i.registryID("target001")+"/importResults/00000000-0000-0000-0000-000000000000", ""); a.StatusCode != http.StatusNotFound {
		t.Errorf("an import that never was: %d %s", a.StatusCode, a.body)
	}
	// Registries pass each other's firewall where its owner lets them.
	i.want(200, i.do(http.MethodPatch, i.registryID("source001"), `{"properties":{"publicNetworkAccess":"Disabled","networkRuleBypassOptions":"None"}}`))
	if a := importInto(`{"source":{"resourceId":"` + i.registryID("source001") + `","sourceImage":"app:1"},"targetTags":["app:2"]}`); a.StatusCode != http.StatusForbidden {
		t.Errorf("from a registry that trusts no services: %d %s", a.StatusCode, a.body)
	}
}

// The admin user's passwords are there when it is enabled, and regenerating one changes that one.
func TestAdminUser(t *testing.T) {
	t.Parallel()
	i := install(t)
	client := i.registries("withadmin")
	ctx := t.Context()
	var failure *azcore.ResponseError
	if _, err := client.ListCredentials(ctx, "rg", "withadmin", nil); !errors.As(err, &failure) || failure.ErrorCode != "UnauthorizedForCredentialOperations" {
		t.Errorf("while it is disabled: %v", err)
	}
	begun, err := client.BeginUpdate(ctx, "rg", "withadmin", armcontainerregistry.RegistryUpdateParameters{Properties: &armcontainerregistry.RegistryPropertiesUpdateParameters{AdminUserEnabled: to.Ptr(true)}}, nil)
	finish(t, begun, err)
	first, err := client.ListCredentials(ctx, "rg", "withadmin", nil)
	if err != nil || *first.Username != "withadmin" || len(first.Passwords) != 2 || *first.Passwords[0].Value == *first.Passwords[1].Value || len(*first.Passwords[0].Value) < 32 {
		t.Fatalf("%+v, %v", first, err)
	}
	second, err := client.RegenerateCredential(ctx, "rg", "withadmin", armcontainerregistry.RegenerateCredentialParameters{Name: to.Ptr(armcontainerregistry.PasswordNamePassword2)}, nil)
	if err != nil || *second.Passwords[0].Value != *first.Passwords[0].Value || *second.Passwords[1].Value == *first.Passwords[1].Value {
		t.Errorf("%+v, %v", second, err)
	}
	again, err := client.ListCredentials(ctx, "rg", "withadmin", nil)
	if err != nil || *again.Passwords[1].Value != *second.Passwords[1].Value {
		t.Errorf("%+v, %v", again, err)
	}
	if a := i.do(http.MethodGet, i.registryID("withadmin"), ""); strings.Contains(string(a.body), "regenerated") || strings.Contains(string(a.body), *first.Passwords[0].Value) {
		t.Errorf("shown to all: %s", a.body)
	}
}

func TestUsages(t *testing.T) {
	t.Parallel()
	i := install(t)
	client := i.registries("measured")
	usages, err := client.ListUsages(t.Context(), "rg", "measured", nil)
	if err != nil || len(usages.Value) != 2 || *usages.Value[0].Name != "Size" || *usages.Value[0].CurrentValue != 4711 || *usages.Value[0].Limit != 500<<30 {
		t.Errorf("%+v, %v", usages, err)
	}
	var failure *azcore.ResponseError
	if _, err := client.ListUsages(t.Context(), "rg", "nobody", nil); !errors.As(err, &failure) || failure.StatusCode != http.StatusNotFound {
		t.Errorf("%v", err)
	}
}
