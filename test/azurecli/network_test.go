package azurecli

import (
	"strings"
	"testing"
)

// TestNetwork types with the unmodified az what `cloister why` and the documentation recommend of networks, where az has
// notations of its own for "none".
func TestNetwork(t *testing.T) {
	in := newInstallation(t)
	in.useAzureCLI(t)
	x := in.workstation(t, false)
	defer x.close()
	servers := func(want string) {
		t.Helper()
		if shown := strings.Join(strings.Fields(x.typed("az network vnet show -g demo -n spoke --query 'dhcpOptions.dnsServers || `[]`' -o json")), ""); !strings.HasSuffix(shown, want) {
			t.Errorf("the DNS servers are %q, want %s", shown, want)
		}
	}
	x.typed("az group create -n demo -l eastus -o none")
	x.typed("az network vnet create -g demo -n spoke --address-prefixes 10.2.0.0/16 --subnet-name nodes --dns-servers 10.1.0.4 10.1.0.5 -o none")
	servers(`["10.1.0.4","10.1.0.5"]`)
	x.typed("az network vnet update -g demo -n spoke --dns-servers 10.1.0.6 -o none")
	servers(`["10.1.0.6"]`)
	// az sends the empty string that its help recommends, which Azure refuses (azure-cli#28294).
	if status, shown := x.try("az network vnet update -g demo -n spoke --dns-servers ''"); status == 0 || !strings.Contains(shown, "(NetcfgInvalidIPAddress) IP address is not valid ''.") {
		t.Errorf("status %d: %s", status, shown)
	}
	x.typed("az network vnet update -g demo -n spoke --dns-servers null -o none")
	servers("[]")
}
