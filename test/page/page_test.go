package page

import (
	"slices"
	"strings"
	"testing"
)

// A command that the parser lost would be missed by every run.
func TestPageIsReadWholly(t *testing.T) {
	want := map[string]int{
		BeforeYouBegin: 6, ManagedCreate: 1, ManagedIntegration: 1, ManagedUpdate: 2, BYONetwork: 5, BYORegistry: 4, BYOEndpoint: 4,
		BYONames: 6, BYOIdentities: 7, BYOCreate: 1, BYOIntegration: 4, BYOUpdate: 2, RegistryID: 3, Validate: 1, Disable: 2,
	}
	p, err := Read()
	if err != nil {
		t.Fatal(err)
	}
	for section, n := range want {
		if len(p[section]) != n {
			t.Errorf("%s: %d commands, want %d:\n%s", section, len(p[section]), n, strings.Join(p[section], "\n"))
		}
	}
	if !slices.Contains(p[BYOEndpoint], `DATA_ENDPOINT_PRIVATE_IP=$(az network nic show --ids ${NETWORK_INTERFACE_ID} --query "ipConfigurations[?privateLinkConnectionProperties.requiredMemberName=='registry_data_$LOCATION'].privateIPAddress" --output tsv)`) {
		t.Errorf("a command is not as it is printed: %q", p[BYOEndpoint])
	}
}
