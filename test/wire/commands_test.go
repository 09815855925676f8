package wire

import (
	"strings"
	"testing"
)

// TestCommands runs the built-in commands around the walkthrough against the whole service: what a reader of the page
// types next. A command's output is compared where somebody builds on it.
func TestCommands(t *testing.T) {
	i := install(t)
	for _, step := range []struct{ line, want string }{
		{"network vnet create -g rg -n hub --address-prefixes 10.0.0.0/16 --query newVNet.name -o tsv", "hub\n"},
		{"network vnet subnet create -g rg --vnet-name hub -n firewall --address-prefixes 10.0.1.0/24 --query addressPrefix -o tsv", "10.0.1.0/24\n"},
		{"network vnet create -g rg -n spoke --address-prefixes 10.1.0.0/16 --subnet-name nodes --subnet-prefixes 10.1.0.0/24 -o none", ""},
		{"network nic create -g rg -n appliance --vnet-name hub --subnet firewall --private-ip-address 10.0.1.9 --ip-forwarding true --query NewNIC.ipConfigurations[0].privateIPAddress -o tsv", "10.0.1.9\n"},
		{"network public-ip create -g rg -n egress --query publicIp.sku.name -o tsv", "Standard\n"},
		{"network public-ip show -g rg -n egress --query publicIPAllocationMethod -o tsv", "Static\n"},
		{"network nat gateway create -g rg -n nat --public-ip-addresses egress --idle-timeout 4 --query [idleTimeoutInMinutes,length(publicIpAddresses)] -o tsv", "4\n1\n"},
		{"network route-table create -g rg -n through --query name -o tsv", "through\n"},
		{"network route-table route create -g rg --route-table-name through -n default --address-prefix 0.0.0.0/0 --next-hop-type VirtualAppliance --next-hop-ip-address 10.0.1.9 --query nextHopType -o tsv", "VirtualAppliance\n"},
		{"network route-table route list -g rg --route-table-name through --query [].name -o tsv", "default\n"},
		{"network vnet subnet update -g rg --vnet-name spoke -n nodes --route-table through --query routeTable.id!=null -o tsv", "true\n"},
		{"network vnet subnet update -g rg --vnet-name spoke -n nodes --route-table null --nat-gateway nat --query [routeTable,natGateway.id!=null] -o tsv", "None\ntrue\n"},
		{"network vnet peering create -g rg --vnet-name spoke -n to-hub --remote-vnet hub --allow-vnet-access --query peeringState -o tsv", "Initiated\n"},
		{"network vnet peering create -g rg --vnet-name hub -n to-spoke --remote-vnet spoke --allow-vnet-access --allow-forwarded-traffic --query peeringState -o tsv", "Connected\n"},
		{"network vnet peering list -g rg --vnet-name spoke --query [].peeringState -o tsv", "Connected\n"},
		{"network vnet peering update -g rg --vnet-name hub -n to-spoke --allow-forwarded-traffic false --query allowForwardedTraffic -o tsv", "false\n"},
		{"network lb list -g rg -o tsv", ""},
		{"network nsg create -g rg -n guard --query NewNSG.name -o tsv", "guard\n"},
		{"network nsg rule create -g rg --nsg-name guard -n out --priority 100 --direction Outbound --access Deny --destination-port-ranges 443 8443 --query length(destinationPortRanges) -o tsv", "2\n"},
		{"network nsg rule update -g rg --nsg-name guard -n out --destination-port-ranges 443 --access Allow --query [access,destinationPortRange] -o tsv", "Allow\n443\n"},
		{"identity create -g rg -n dev --query name -o tsv", "dev\n"},
		{"acr create -g rg -n commandsreg --sku Premium --query sku.name -o tsv", "Premium\n"},
		{"acr show-usage -n commandsreg --query value[0].name -o tsv", "Size\n"},
		{"acr cache create -r commandsreg -g rg -n mcr-cache --source-repo mcr.microsoft.com/* --target-repo * --query name -o tsv", "mcr-cache\n"},
		{"resource list -g rg --resource-type Microsoft.Network/natGateways --query [].[name,provisioningState] -o tsv", "nat\tSucceeded\n"},
		{"resource show -g rg -n nat --resource-type Microsoft.Network/natGateways --query properties.idleTimeoutInMinutes -o tsv", "4\n"},
		{"resource list --tag owner=me -o tsv", ""},
		{"group update -n rg --tags owner=me --query tags.owner -o tsv", "me\n"},
		{"group list --tag owner=me --query [].name -o tsv", "rg\n"},
		{"group wait -n rg --created", ""},
		{"feature list --namespace Microsoft.ContainerService --query length(@)>`0` -o tsv", "true\n"},
		{"provider show -n Microsoft.ContainerService --query registrationState -o tsv", "Registered\n"},
		{"provider register -n Microsoft.ContainerService --wait", ""},
		{"provider show -n Microsoft.ContainerService --query registrationState -o tsv", "Registered\n"},
		{"role definition list -n AcrPull --query [].roleName -o tsv", "AcrPull\n"},
		{"aks get-versions -l eastus --query values[0].version!=null -o tsv", "true\n"},
		{"aks create -g rg -n demo --enable-private-cluster --bootstrap-artifact-source Cache --outbound-type none --network-plugin azure --node-count 1 --query name -o tsv", "demo\n"},
		{"aks update -g rg -n demo --disable-local-accounts --query disableLocalAccounts -o tsv", "true\n"},
		{"aks get-credentials -g rg -n demo -f -", "refused"},
		{"aks update -g rg -n demo --enable-local-accounts --query disableLocalAccounts -o tsv", "false\n"},
		{"aks get-credentials -g rg -n demo --admin -f - -o none", "https://demo"},
		{"network nat gateway delete -g rg -n nat --yes", "refused"},
		{"network vnet subnet update -g rg --vnet-name spoke -n nodes --nat-gateway null -o none", ""},
		{"network nat gateway delete -g rg -n nat --yes", ""},
		{"network public-ip delete -g rg -n egress", ""},
	} {
		status, out, complaint := i.az(step.line)
		if refused := step.want == "refused"; refused != (status != 0) || !refused && out != step.want && (step.want != "https://demo" || !strings.HasPrefix(out, step.want)) {
			t.Errorf("az %s: exit status %d, %q, want %q\n%s", step.line, status, out, step.want, strings.TrimSpace(complaint))
		}
	}
}

// TestUpdateWithOwnIdentity updates a cluster whose control plane has the user's identity and whose nodes have AKS's, on
// which nobody gives the user's identity a role.
func TestUpdateWithOwnIdentity(t *testing.T) {
	i := install(t)
	i.types("identity create -g rg -n plane")
	i.types("aks create -g rg -n demo --enable-private-cluster --bootstrap-artifact-source Cache --outbound-type none --network-plugin azure --node-count 1 --assign-identity " +
		i.types("identity show -g rg -n plane --query id -o tsv"))
	if state := i.types("aks update -g rg -n demo --yes --query provisioningState -o tsv"); state != "Succeeded" {
		t.Errorf("the cluster is %s", state)
	}
}
