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
		if strings.HasPrefix(c.path, "aks nodepool ") {
			// az has two names for a pool's name here.
			all[i].args = slices.Clone(c.args)
			for j, a := range all[i].args {
				if a.name == "name" {
					all[i].args[j].also = []string{"--nodepool-name"}
				}
			}
		}
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

// CommandReference is one command for documentation.
type CommandReference struct {
	Path, Help   string
	Examples     [][2]string // what it does, "" where that is plain, and the arguments
	Arguments    [][2]string // as spelled, and what it is for
	NotSupported []string    // arguments of az that are missing, without their dashes
}

// Reference is what the built-in commands are, for documentation.
func Reference() []CommandReference {
	var out []CommandReference
	for _, c := range commands() {
		r := CommandReference{Path: c.path, Help: c.help, Examples: c.examples(), NotSupported: notSupported[c.path]}
		known := c.known()
		slices.SortStableFunc(known, func(a, b arg) int {
			if a.required != b.required {
				if a.required {
					return -1
				}
				return 1
			}
			return strings.Compare(a.name, b.name)
		})
		for _, a := range known {
			r.Arguments = append(r.Arguments, [2]string{a.label(), a.described()})
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b CommandReference) int { return strings.Compare(a.Path, b.Path) })
	return out
}

// GlobalArguments are those that every command takes.
func GlobalArguments() [][2]string {
	var out [][2]string
	for _, a := range global {
		out = append(out, [2]string{a.label(), a.described()})
	}
	return out
}
