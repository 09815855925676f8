package userassignedidentities

import (
	"testing"

	"github.com/google/uuid"

	"github.com/cloister-dev/cloister/internal/provider/providertest"
)

const id = "/subscriptions/22222222-2222-2222-2222-222222222222/resourceGroups/rg-netiso/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id-kubelet"

func TestIdentityKeepsItsPrincipal(t *testing.T) {
	d := providertest.New()
	first, err := providertest.Prepare(t, d, Spec(nil, "11111111-1111-1111-1111-111111111111"), id, "2023-01-31", `{"location": "eastus"}`)
	if err != nil {
		t.Fatal(err)
	}
	p := first.Properties
	for _, s := range []string{p.PrincipalID, p.ClientID, p.TenantID} {
		if _, err := uuid.Parse(s); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
	if p.PrincipalID == p.ClientID {
		t.Error("principal and client are one")
	}
	second, err := providertest.Prepare(t, d, Spec(nil, "x"), id, "2024-11-30", `{"location":"eastus","properties":{"principalId":"mine"}}`)
	if err != nil || second.Properties != p {
		t.Errorf("%+v, %v", second, err)
	}
}
