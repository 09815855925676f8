// Package page is the text of the page about network isolated clusters of the Azure documentation, and takes out of it
// the commands that it prints, section by section. Tests type them; what comes of them is the tests' business.
package page

import (
	_ "embed"
	"fmt"
	"regexp"
	"strings"
)

// Sections of the page that hold commands, by the names that tests have for them.
const (
	BeforeYouBegin     = "Before you begin"
	ManagedCreate      = "AKS-managed ACR: create"
	ManagedIntegration = "AKS-managed ACR: create, API Server VNet integration"
	ManagedUpdate      = "AKS-managed ACR: update an existing cluster"
	BYONetwork         = "BYO ACR, step 1: network"
	BYORegistry        = "BYO ACR, step 2: registry"
	BYOEndpoint        = "BYO ACR, step 3: private endpoint"
	BYONames           = "BYO ACR, step 4: names"
	BYOIdentities      = "BYO ACR, step 5: identities"
	BYOCreate          = "BYO ACR, step 6: create"
	BYOIntegration     = "BYO ACR, step 6: create, API Server VNet integration"
	BYOUpdate          = "BYO ACR: update an existing cluster"
	RegistryID         = "Update your ACR ID"
	Validate           = "Validate"
	Disable            = "Disable"
)

// Headings are the page's, in its order. It prints them as lines like others, so they must be known; those without
// a Name hold no command.
var Headings = []struct{ Line, Name string }{
	{"Before you begin", BeforeYouBegin},
	{"Deploy a network isolated cluster with AKS-managed ACR", ""},
	{"Create a network isolated cluster", ManagedCreate},
	{"API Server VNet integration", ManagedIntegration},
	{"Update an existing AKS cluster to network isolated type", ManagedUpdate},
	{"Deploy a network isolated cluster with bring your own ACR", ""},
	{"Step 1: Create the virtual network and subnets", BYONetwork},
	{"Step 2: Create the ACR and enable artifact cache", BYORegistry},
	{"Step 3: Create a private endpoint for the ACR", BYOEndpoint},
	{"Step 4: Create a private DNS zone and add records", BYONames},
	{"Step 5: Create control plane and kubelet identities", BYOIdentities},
	{"Step 6: Create network isolated cluster using the BYO ACR", BYOCreate},
	{"API Server VNet integration", BYOIntegration},
	{"Update an existing AKS cluster", BYOUpdate},
	{"Update your ACR ID", RegistryID},
	{"Validate that network isolated cluster is enabled", Validate},
	{"Disable network isolated cluster", Disable},
	{"Next steps", ""},
}

//go:embed network-isolated.txt
var text string

// command is how a line of the page starts that one types.
var command = regexp.MustCompile(`^(?:(?:export )?[A-Z_]+=\$\()?az [a-z]`)

// Page are the commands of each section, as they are printed.
type Page map[string][]string

// Read takes the commands out of the page's text.
func Read() (Page, error) {
	p := Page{}
	next, section := 0, ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if next < len(Headings) && line == Headings[next].Line {
			section = Headings[next].Name
			next++
			continue
		}
		if text := strings.TrimSpace(line); command.MatchString(text) {
			if section == "" {
				return nil, fmt.Errorf("a command outside of the known sections: %s", text)
			}
			p[section] = append(p[section], text)
		}
	}
	if next != len(Headings) {
		return nil, fmt.Errorf("the page has no heading %q where it is expected", Headings[next].Line)
	}
	return p, nil
}
