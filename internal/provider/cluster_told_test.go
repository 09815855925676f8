package provider_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcemanager"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype/resourcetypetest"
	"github.com/cloister-dev/cloister/internal/lib/adminapi"
	"github.com/cloister-dev/cloister/internal/provider/containerservice/managedclusters"
)

// typed makes a PUT as az does for a command line with the arguments, and waits for it.
func typed(h *resourcetypetest.Harness, id resourceid.ID, body any, arguments ...string) {
	h.T.Helper()
	sent, err := json.Marshal(body)
	if err != nil {
		h.T.Fatal(err)
	}
	a, err := h.Manager.Do(context.WithoutCancel(h.T.Context()), resourcemanager.Request{Method: http.MethodPut, ID: id, APIVersion: resourcetypetest.APIVersion,
		Caller: resourcetypetest.Caller, Query: url.Values{}, Body: sent, Arguments: arguments})
	if err == nil {
		err = h.Finish(a)
	}
	if err != nil {
		h.T.Fatal(err)
	}
}

// An update whose command line names a registry and no artifact source says nothing of the registry when it gets here:
// the cluster remembers that, until an update that az did not cut short.
func TestDroppedRegistry(t *testing.T) {
	h, _, id := newAKS(t)
	h.Put(id, single(t))
	for _, tt := range []struct {
		arguments string
		want      bool
	}{
		{"-g -n --bootstrap-container-registry-resource-id", true},
		{"-g -n", false},
		{"-g -n --bootstrap-c", true},
		{"-g -n --bootstrap-artifact-source --bootstrap-container-registry-resource-id", false},
		{"-g -n --bootstrap-container-registry-resource-id", true},
		{"-g -n --bootstrap-a --bootstrap-c", false},
		{"-g -n --tags", false},
	} {
		typed(h, id, single(t), strings.Fields(tt.arguments)...)
		var stored managedclusters.Model
		h.Stored(id, &stored)
		if got := slices.Contains(stored.Memory.IgnoredArguments, "--bootstrap-container-registry-resource-id"); got != tt.want {
			t.Errorf("%s: noted as dropped: %v, want %v", tt.arguments, got, tt.want)
		}
		if d := h.Get(id); d.At("cloister") != nil {
			t.Errorf("%s: the note is shown: %v", tt.arguments, d)
		}
	}
}

// result is what the operation of a write of the resource carries.
func result(h *resourcetypetest.Harness, id resourceid.ID, body any) string {
	h.T.Helper()
	a, err := h.Do(http.MethodPut, id, "", body)
	if err == nil {
		err = h.Finish(a)
	}
	if err != nil {
		h.T.Fatal(err)
	}
	o, err := h.Store.Operation(h.T.Context(), a.Operation.ID)
	if err != nil {
		h.T.Fatal(err)
	}
	return string(o.Result)
}

// What there is to warn of comes with the success of a cluster's write, and of a pool's; that nobody can tell changes nothing.
func TestWarnings(t *testing.T) {
	h, m, id := newAKS(t)
	pool := id.Child("agentPools", "nodepool1")
	asked := []string{}
	m.warnings = func(cluster resourceid.ID) ([]adminapi.Warning, error) {
		asked = append(asked, cluster.String())
		return []adminapi.Warning{{Code: "Trap", Subject: cluster.String(), Message: "it is one", Mend: []string{"az aks update"}}}, nil
	}
	want := `{"warnings":[{"code":"Trap","subject":"` + id.String() + `","message":"it is one","mend":["az aks update"]}]}`
	if got := result(h, id, single(t)); got != want {
		t.Errorf("the cluster's operation carries %s, want %s", got, want)
	}
	if got := result(h, pool, `{"properties":{"count":1,"mode":"System"}}`); got != want {
		t.Errorf("the pool's operation carries %s, want %s", got, want)
	}
	for _, a := range asked {
		if a != id.String() {
			t.Errorf("asked about %s", a)
		}
	}
	m.warnings = func(resourceid.ID) ([]adminapi.Warning, error) { return nil, errors.New("nobody knows") }
	if got := result(h, id, single(t)); got != "" {
		t.Errorf("the operation carries %s", got)
	}
}

// The error of a node that does not provision tells why, in the pool's operation and in the cluster's.
func TestDiagnosisOfAFailure(t *testing.T) {
	h, m, id := newAKS(t)
	m.failing = "vmss000000"
	m.diagnose = func(ctx context.Context, cluster resourceid.ID) (*adminapi.Diagnosis, error) {
		if _, bounded := ctx.Deadline(); !bounded {
			t.Error("an operation may wait for its diagnosis for ever")
		}
		return &adminapi.Diagnosis{Subject: cluster.String(), Cause: &adminapi.Link{Name: "record", Saw: "none"}, Then: []string{"az aks update -g rg -n demo"}}, nil
	}
	_, err := h.TryPut(id, single(t))
	e := resourcetypetest.WantError(t, err, "VMExtensionProvisioningError")
	if len(e.AdditionalInfo) != 1 || e.AdditionalInfo[0].Type != adminapi.DiagnosisInfo {
		t.Fatalf("the cluster's error has %v", e.AdditionalInfo)
	}
	var d adminapi.Diagnosis
	if err := json.Unmarshal(e.AdditionalInfo[0].Info, &d); err != nil || d.Subject != id.String() || d.Cause == nil || d.Cause.Saw != "none" {
		t.Errorf("diagnosis %s, %v", e.AdditionalInfo[0].Info, err)
	}
	operations, err := h.Store.Operations(t.Context(), id.Child("agentPools", "nodepool1"), false)
	if err != nil || len(operations) != 1 || !strings.Contains(string(operations[0].Error), adminapi.DiagnosisInfo) {
		t.Errorf("the pool's operations %v, %v", operations, err)
	}
	// Without one the error is what it was.
	m.diagnose = func(context.Context, resourceid.ID) (*adminapi.Diagnosis, error) {
		return nil, errors.New("nobody knows")
	}
	_, err = h.TryPut(id, single(t))
	if e := resourcetypetest.WantError(t, err, "VMExtensionProvisioningError"); len(e.AdditionalInfo) != 0 || !strings.Contains(e.Message, "exit status=211") {
		t.Errorf("the error is %v with %v", e, e.AdditionalInfo)
	}
}
