package azurecli

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Sections of the page, by what a run calls them.
const (
	beforeYouBegin     = "Before you begin"
	managedCreate      = "AKS-managed ACR: create"
	managedIntegration = "AKS-managed ACR: create, API Server VNet integration"
	managedUpdate      = "AKS-managed ACR: update an existing cluster"
	byoNetwork         = "BYO ACR, step 1: network"
	byoRegistry        = "BYO ACR, step 2: registry"
	byoEndpoint        = "BYO ACR, step 3: private endpoint"
	byoNames           = "BYO ACR, step 4: names"
	byoIdentities      = "BYO ACR, step 5: identities"
	byoCreate          = "BYO ACR, step 6: create"
	byoIntegration     = "BYO ACR, step 6: create, API Server VNet integration"
	byoUpdate          = "BYO ACR: update an existing cluster"
	registryID         = "Update your ACR ID"
	validate           = "Validate"
	disable            = "Disable"
)

// headings are the page's, in its order. It prints them as lines like others, so they must be known; those without
// a name hold no command.
var headings = []struct{ line, name string }{
	{"Before you begin", beforeYouBegin},
	{"Deploy a network isolated cluster with AKS-managed ACR", ""},
	{"Create a network isolated cluster", managedCreate},
	{"API Server VNet integration", managedIntegration},
	{"Update an existing AKS cluster to network isolated type", managedUpdate},
	{"Deploy a network isolated cluster with bring your own ACR", ""},
	{"Step 1: Create the virtual network and subnets", byoNetwork},
	{"Step 2: Create the ACR and enable artifact cache", byoRegistry},
	{"Step 3: Create a private endpoint for the ACR", byoEndpoint},
	{"Step 4: Create a private DNS zone and add records", byoNames},
	{"Step 5: Create control plane and kubelet identities", byoIdentities},
	{"Step 6: Create network isolated cluster using the BYO ACR", byoCreate},
	{"API Server VNet integration", byoIntegration},
	{"Update an existing AKS cluster", byoUpdate},
	{"Update your ACR ID", registryID},
	{"Validate that network isolated cluster is enabled", validate},
	{"Disable network isolated cluster", disable},
	{"Next steps", ""},
}

// command is how a line of the page starts that one types.
var command = regexp.MustCompile(`^(?:(?:export )?[A-Z_]+=\$\()?az [a-z]`)

// page are the commands of each section, as they are printed.
type page map[string][]string

func readPage(t *testing.T) page {
	t.Helper()
	data, err := os.ReadFile("testdata/network-isolated.txt")
	if err != nil {
		t.Fatal(err)
	}
	p := page{}
	next, section := 0, ""
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, "\n")
		if next < len(headings) && line == headings[next].line {
			section = headings[next].name
			next++
			continue
		}
		if text := strings.TrimSpace(line); command.MatchString(text) {
			if section == "" {
				t.Fatalf("a command outside of the known sections: %s", text)
			}
			p[section] = append(p[section], text)
		}
	}
	if next != len(headings) {
		t.Fatalf("the page has no heading %q where it is expected", headings[next].line)
	}
	return p
}

// A command that the parser lost would be missed by every run.
func TestPageIsReadWholly(t *testing.T) {
	want := map[string]int{
		beforeYouBegin: 6, managedCreate: 1, managedIntegration: 1, managedUpdate: 2, byoNetwork: 5, byoRegistry: 4, byoEndpoint: 4,
		byoNames: 6, byoIdentities: 7, byoCreate: 1, byoIntegration: 4, byoUpdate: 2, registryID: 3, validate: 1, disable: 2,
	}
	p := readPage(t)
	for section, n := range want {
		if len(p[section]) != n {
			t.Errorf("%s: %d commands, want %d:\n%s", section, len(p[section]), n, strings.Join(p[section], "\n"))
		}
	}
	typed := map[string]bool{}
	for _, r := range runs {
		for _, s := range r.steps {
			typed[s.section] = true
		}
	}
	for _, h := range headings {
		if h.name != "" && !typed[h.name] {
			t.Errorf("no run types the section %q", h.name)
		}
	}
	if !slices.Contains(p[byoEndpoint], `DATA_ENDPOINT_PRIVATE_IP=$(az network nic show --ids ${NETWORK_INTERFACE_ID} --query "ipConfigurations[?privateLinkConnectionProperties.requiredMemberName=='registry_data_$LOCATION'].privateIPAddress" --output tsv)`) {
		t.Errorf("a command is not as it is printed: %q", p[byoEndpoint])
	}
}
