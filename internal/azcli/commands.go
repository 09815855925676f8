package azcli

import (
	"slices"
	"strings"
)

// API versions that az 2.74 sends, by resource type.
const (
	resourcesAPI     = "2024-11-01"
	networkAPI       = "2024-05-01"
	subnetAPI        = "2024-01-01"
	nicAPI           = "2023-11-01"
	endpointAPI      = "2022-01-01"
	zoneGroupAPI     = "2022-01-01"
	dnsAPI           = "2018-09-01"
	linkAPI          = "2024-06-01"
	registryAPI      = "2025-03-01-preview"
	cacheAPI         = "2023-01-01-preview"
	identityAPI      = "2023-01-31"
	assignmentAPI    = "2022-04-01"
	definitionAPI    = "2022-05-01-preview"
	featuresAPI      = "2021-07-01"
	aksAPI           = "2025-03-01"
	subscriptionsAPI = "2022-12-01"
)

// commands are all commands there are.
func commands() []command {
	all := slices.Concat(
		accountCommands(), groupCommands(), resourceCommands(), featureCommands(), providerCommands(),
		networkCommands(), securityCommands(), endpointCommands(), dnsCommands(),
		registryCommands(), identityCommands(), roleCommands(),
		aksCommands(), lifeCommands(), poolCommands(),
		egressCommands(), repositoryCommands(), directoryCommands(), sessionCommands(),
	)
	// What is created or updated is printed as what is shown.
	tables := map[string]columns{}
	for _, c := range all {
		if group, name := split(c.path); name == "show" {
			tables[group] = c.table
		}
	}
	for i, c := range all {
		all[i].models = strings.HasPrefix(c.path, "aks ") && c.path != "aks get-versions"
		// az wraps these two in a document of their own.
		if c.path == "network vnet create" || c.path == "network nsg create" {
			continue
		}
		if group, name := split(c.path); c.table == nil && (name == "create" || name == "update" || name == "add-record") {
			all[i].table = tables[group]
		}
	}
	return all
}

// Reference is what the built-in commands are, for documentation: path and help.
func Reference() [][2]string {
	var out [][2]string
	for _, c := range commands() {
		out = append(out, [2]string{c.path, c.help})
	}
	slices.SortFunc(out, func(a, b [2]string) int { return slices.Compare(a[:], b[:]) })
	return out
}
