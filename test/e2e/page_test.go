package e2e

import (
	"regexp"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/cloister-dev/cloister/test/page"
)

// pageNames are the names that the page leaves to its reader.
var pageNames = [][2]string{
	{"RESOURCE_GROUP", "demo"}, {"LOCATION", "eastus"}, {"AKS_NAME", "demo"}, {"VNET_NAME", "net"},
	{"AKS_SUBNET_NAME", "nodes"}, {"ACR_SUBNET_NAME", "registry"}, {"APISERVER_SUBNET_NAME", "apiserver"},
	{"REGISTRY_NAME", "ownregistry"}, {"CLUSTER_IDENTITY_NAME", "plane"}, {"KUBELET_IDENTITY_NAME", "kubelet"},
}

// pageSections are the page's sections as stories name them.
var pageSections = map[string][]string{
	"network":     {page.BYONetwork},
	"registry":    {page.BYORegistry},
	"endpoint":    {page.BYOEndpoint},
	"names":       {page.BYONames},
	"identities":  {page.BYOIdentities},
	"preparation": {page.BYONetwork, page.BYORegistry, page.BYOEndpoint, page.BYONames, page.BYOIdentities},
	"create":      {page.BYOCreate},
	"integration": {page.BYOIntegration},
	"update":      {page.BYOUpdate},
	"managed":     {page.ManagedCreate},
	"isolate":     {page.ManagedUpdate},
}

const pageUsage = "[!] page SECTION… [without COMMAND…] [only COMMAND…] [but TEXT OTHER]…"

// cmdPage types the commands of sections of the Azure documentation's page (test/page) in their order, as they are
// printed but for the number of nodes: one, where the page has three. `without` leaves out those that begin so, `only` all
// others, and `but` replaces a piece of text; what none of the commands fits is a mistake of the story's. With "!" the
// last command must fail.
func cmdPage(ts *testscript.TestScript, neg bool, args []string) {
	p, err := page.Read()
	ts.Check(err)
	var sections, without, only, but []string
	into := &sections
	for _, a := range args {
		switch a {
		case "without":
			into = &without
		case "only":
			into = &only
		case "but":
			into = &but
		default:
			*into = append(*into, a)
		}
	}
	usage(ts, len(sections) > 0 && len(but)%2 == 0, pageUsage)
	var lines []string
	for _, name := range sections {
		usage(ts, pageSections[name] != nil, pageUsage)
		for _, s := range pageSections[name] {
			lines = append(lines, p[s]...)
		}
	}
	lines = chosen(ts, lines, without, false)
	if len(only) > 0 {
		lines = chosen(ts, lines, only, true)
	}
	for i := 0; i < len(but); i += 2 {
		if !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, but[i]) }) {
			ts.Fatalf("the page does not say %q there", but[i])
		}
		for n := range lines {
			lines[n] = strings.ReplaceAll(lines[n], but[i], but[i+1])
		}
	}
	for i, line := range lines {
		if strings.HasPrefix(line, "az aks create ") {
			line += " --node-count 1"
		}
		typePage(ts, neg && i == len(lines)-1, line)
	}
}

// chosen are the lines that begin with one of the prefixes, or all others. Each prefix must be that of a line.
func chosen(ts *testscript.TestScript, lines, prefixes []string, keep bool) []string {
	for _, p := range prefixes {
		if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, p) }) {
			ts.Fatalf("none of the page's commands there begins with %q", p)
		}
	}
	return slices.DeleteFunc(lines, func(l string) bool {
		return keep != slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(l, p) })
	})
}

var assignment = regexp.MustCompile(`^(?:export )?(([A-Z_]+)=\$\(.*)$`)

// typePage runs one line by a shell that has the story's variables. A variable that the line sets is the story's from then on.
func typePage(ts *testscript.TestScript, neg bool, line string) {
	ts.Logf("$ %s", line)
	m := assignment.FindStringSubmatch(line)
	if m == nil {
		run(ts, neg, "sh", []string{"-c", line})
		return
	}
	run(ts, neg, "sh", []string{"-ec", m[1] + "\nprintf %s \"$" + m[2] + `"`})
	if !neg {
		ts.Setenv(m[2], ts.ReadFile("stdout"))
	}
}
