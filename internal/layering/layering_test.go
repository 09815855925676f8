// Package layering holds the shape of the tree by a test: who may import whom, where third-party libraries
// belong, what a package is called and that it says what it is for. ARCHITECTURE is this table.
package layering

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/cloister-dev/cloister/"

// maxLines is the longest that a file may be.
const maxLines = 600

// rule says what of ours the production code of packages may import. The first rule that fits counts.
// A pattern is a path in which * stands for one element and a final /** for the directory and all below it.
type rule struct {
	packages string
	imports  []string
}

const (
	lib      = "internal/lib/**"
	anything = "**"
)

// arm are the protocol packages that providers and the front door are written against.
var arm = []string{
	"internal/arm/resourceid", "internal/arm/armerror", "internal/arm/odatafilter", "internal/arm/resourcestore", "internal/arm/resourcetype",
}

var rules = []rule{
	{"internal/lib/**", nil}, // not each other either: a leaf has one job

	{"internal/arm/resourceid", nil},
	{"internal/arm/odatafilter", nil},
	{"internal/arm/armerror", []string{"internal/arm/resourceid"}},
	{"internal/arm/resourcestore/**", []string{"internal/arm/resourceid", "internal/arm/resourcestore", lib}},
	{"internal/arm/resourcetype", []string{"internal/arm/resourceid", "internal/arm/armerror", "internal/arm/resourcestore", lib}},
	{"internal/arm/operation", []string{"internal/arm/resourceid", "internal/arm/armerror", "internal/arm/resourcestore", lib}},
	{"internal/arm/template", nil},
	{"internal/arm/resourcemanager", append([]string{lib}, arm...)},
	// Neither knows the other: they meet in the store.
	{"internal/arm/reconcile", append([]string{lib}, arm...)},
	{"internal/arm/frontdoor", append([]string{"internal/arm/resourcemanager", "internal/arm/operation", lib}, arm...)},
	{"internal/arm/resourcetype/resourcetypetest", []string{"internal/arm/**"}},
	{"internal/arm/reconcile/reconciletest", []string{"internal/arm/**"}},

	// An engine and its own parts; never another engine, nothing of arm.
	{"internal/engine/*/**", []string{lib, "SELF"}},

	// What several types of a namespace compute alike, and is no type.
	{"internal/provider/network/subnetuse", append([]string{lib}, arm...)},
	{"internal/provider/network/egressuse", append([]string{lib}, arm...)},
	{"internal/provider/network/inlinechildren", append([]string{lib}, arm...)},
	{"internal/provider/network/vnetpeering", append([]string{lib}, arm...)},
	{"internal/provider/containerservice/operationreport", append([]string{lib}, arm...)},
	{"internal/provider/authorization/rolecheck", []string{"internal/arm/resourceid"}},
	{"internal/provider/providertest", append([]string{lib}, arm...)},
	{"internal/provider", nil}, // tests across types; no code
	// A type names another by resource ID only.
	{"internal/provider/*/**", append([]string{lib, "internal/engine/**", "internal/provider/network/subnetuse", "internal/provider/network/egressuse", "internal/provider/network/inlinechildren", "internal/provider/network/vnetpeering", "internal/provider/containerservice/operationreport", "internal/provider/authorization/rolecheck"}, arm...)},

	// Processes of the data plane: they live while the control plane does not.
	{"internal/app/public", []string{"internal/engine/**", lib}},
	{"internal/app/vnetservices", []string{"internal/engine/**", lib}},
	{"internal/app/documents", []string{"internal/arm/resourceid", "internal/arm/resourcestore"}},
	{"internal/app/projection", []string{"internal/app/documents", "internal/app/public", "internal/app/vnetservices", "internal/provider/**", "internal/engine/**", lib, "internal/arm/resourceid", "internal/arm/resourcestore", "internal/arm/resourcetype"}},
	{"internal/app/**", []string{anything}},

	// They see what any client sees.
	{"internal/azcli/**", []string{"internal/arm/resourceid", "internal/azcli/**", lib}},
	{"internal/cli/**", []string{"internal/arm/resourceid", "internal/cli/**", lib}},
	{"internal/dashboard/**", []string{"internal/arm/resourceid", lib}},

	{"cmd/**", []string{"internal/app/**", "internal/cli/**", "internal/azcli/**", "internal/dashboard/**", "internal/engine/**", lib}},
	{"internal/layering", nil},
	{"test/**", []string{anything}},
}

// placement says where a third-party module may be imported by production code.
var placement = map[string][]string{
	"github.com/vishvananda/netlink":          {"internal/engine/fabric/**"},
	"github.com/google/nftables":              {"internal/engine/fabric/**", "test/e2e/reach"},
	"github.com/mdlayher/netlink":             {"internal/engine/fabric/**"},
	"github.com/Azure/azure-sdk-for-go":       {"test/**"},
	"github.com/distribution/distribution/v3": {"internal/engine/registry/**"},
	"github.com/miekg/dns":                    {"internal/engine/privatedns/**"},
	"modernc.org/sqlite":                      {"internal/arm/resourcestore/sqlite"},
	"github.com/spf13/cobra":                  {"cmd/**", "internal/cli/**", "internal/azcli/**", "internal/engine/artifacts/**"},
	"github.com/jmespath/go-jmespath":         {"internal/azcli/**", "internal/cli/**"},
	"k8s.io/kubernetes":                       {},
}

// nameless are package names that say nothing of a package's duty.
var nameless = []string{"util", "utils", "common", "helper", "helpers", "types", "base", "misc", "shared"}

func matches(pattern, pkg string) bool {
	if pattern == anything {
		return true
	}
	p, below := strings.CutSuffix(pattern, "/**")
	want, have := strings.Split(p, "/"), strings.Split(pkg, "/")
	if len(have) < len(want) || !below && len(have) != len(want) {
		return false
	}
	ok, err := path.Match(p, strings.Join(have[:len(want)], "/"))
	return err == nil && ok
}

func ruleOf(pkg string) (rule, bool) {
	for _, r := range rules {
		if matches(r.packages, pkg) {
			return r, true
		}
	}
	return rule{}, false
}

// allowed reports whether the rule lets pkg import imported.
func (r rule) allowed(pkg, imported string) bool {
	for _, p := range r.imports {
		if p == "SELF" {
			// internal/engine/NAME and what is below it.
			p = strings.Join(strings.SplitN(pkg, "/", 4)[:3], "/") + "/**"
		}
		if matches(p, imported) {
			return true
		}
	}
	return false
}

type source struct {
	file, pkg, name string
	test            bool
	lines           int
	doc             bool
	generated       bool
	imports         []string
}

// sources reads all Go files of the module but those of modules nested in it.
func sources(t *testing.T) []source {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	var out []source
	err = filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && file != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "nodeartifacts" || d.Name() == "tools"):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(file, ".go"):
			return nil
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, file, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		s := source{
			file: rel, pkg: filepath.ToSlash(filepath.Dir(rel)), name: f.Name.Name, test: strings.HasSuffix(file, "_test.go"),
			lines: set.File(f.Pos()).LineCount(), doc: f.Doc != nil && (strings.HasPrefix(f.Doc.Text(), "Package ") || strings.HasPrefix(f.Doc.Text(), "Command ")),
		}
		for _, c := range f.Comments {
			s.generated = s.generated || strings.HasPrefix(c.Text(), "Code generated ")
		}
		for _, i := range f.Imports {
			p, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			s.imports = append(s.imports, p)
		}
		out = append(out, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 50 {
		t.Fatalf("only %d files found below %s", len(out), root)
	}
	return out
}

// support reports whether a package exists for tests alone.
func support(pkg string) bool {
	return strings.HasSuffix(path.Base(pkg), "test") || strings.HasPrefix(pkg, "test/")
}

// breaches are the rules that a file breaks.
func breaches(s source) []string {
	var out []string
	r, ok := ruleOf(s.pkg)
	if !ok {
		return []string{fmt.Sprintf("%s: the package %s has no rule", s.file, s.pkg)}
	}
	if s.test {
		return nil
	}
	for _, i := range s.imports {
		if ours, is := strings.CutPrefix(i, module); is {
			if !r.allowed(s.pkg, ours) {
				out = append(out, fmt.Sprintf("%s: %s may not import %s", s.file, s.pkg, ours))
			}
			if support(ours) && !support(s.pkg) {
				out = append(out, fmt.Sprintf("%s: production code imports %s, which is for tests", s.file, ours))
			}
			continue
		}
		for thirdParty, where := range placement {
			if (i == thirdParty || strings.HasPrefix(i, thirdParty+"/")) && !slices.ContainsFunc(where, func(p string) bool { return matches(p, s.pkg) }) {
				out = append(out, fmt.Sprintf("%s: %s belongs in %v only", s.file, i, where))
			}
		}
	}
	return out
}

func TestImports(t *testing.T) {
	for _, s := range sources(t) {
		for _, b := range breaches(s) {
			t.Error(b)
		}
	}
}

// The rules must catch what they are there for.
func TestRulesRefuse(t *testing.T) {
	for _, c := range []struct{ pkg, imported string }{
		{"internal/lib/atomicfile", module + "internal/lib/layout"},
		{"internal/engine/fabric", module + "internal/engine/registry"},
		{"internal/engine/fabric", module + "internal/arm/resourceid"},
		{"internal/engine/identity/metadata", module + "internal/engine/identities"},
		{"internal/provider/network/virtualnetworks", module + "internal/provider/network/networkinterfaces"},
		{"internal/provider/network/virtualnetworks", module + "internal/provider/network/virtualnetworks/subnets"},
		{"internal/provider/network/virtualnetworks", module + "internal/arm/frontdoor"},
		{"internal/arm/frontdoor", module + "internal/provider/network/virtualnetworks"},
		{"internal/arm/reconcile", module + "internal/arm/resourcemanager"},
		{"internal/arm/resourcemanager", module + "internal/engine/fabric"},
		{"internal/cli", module + "internal/arm/resourcestore"},
		{"internal/azcli", module + "internal/app"},
		{"internal/app/vnetservices", module + "internal/arm/resourcestore"},
		{"internal/app", module + "internal/arm/resourcetype/resourcetypetest"},
		{"internal/new", module + "internal/lib/layout"},
		{"internal/provider/network/virtualnetworks", "github.com/google/nftables/expr"},
		{"internal/azcli", "github.com/Azure/azure-sdk-for-go/sdk/azcore"},
		{"internal/engine/node", "k8s.io/kubernetes/cmd/kubelet/app"},
	} {
		if len(breaches(source{file: "x.go", pkg: c.pkg, imports: []string{c.imported}})) == 0 {
			t.Errorf("%s may import %s", c.pkg, c.imported)
		}
	}
}

func TestRulesHavePackages(t *testing.T) {
	// Directories that the design names and that are not there yet, or not on every branch.
	planned := []string{"internal/arm/template", "internal/dashboard/**", "internal/app/projection", "internal/azcli/**", "internal/cli/**"}
	all := sources(t)
	for _, r := range rules {
		if !slices.Contains(planned, r.packages) && !slices.ContainsFunc(all, func(s source) bool { return matches(r.packages, s.pkg) }) {
			t.Errorf("the rule for %s has no package", r.packages)
		}
	}
}

func TestPackages(t *testing.T) {
	comments := map[string][]string{}
	onlyTests := map[string]bool{}
	for _, s := range sources(t) {
		if _, seen := onlyTests[s.pkg]; !seen {
			onlyTests[s.pkg] = true
		}
		onlyTests[s.pkg] = onlyTests[s.pkg] && s.test
		if s.doc {
			comments[s.pkg] = append(comments[s.pkg], s.file)
		}
		if slices.Contains(nameless, strings.TrimSuffix(s.name, "_test")) {
			t.Errorf("%s: the package name %s says nothing of its duty", s.file, s.name)
		}
		if s.lines > maxLines && !s.generated {
			t.Errorf("%s has %d lines, more than %d", s.file, s.lines, maxLines)
		}
	}
	for pkg := range onlyTests {
		if n := len(comments[pkg]); n != 1 {
			t.Errorf("%s has %d package comments, want one: %v", pkg, n, comments[pkg])
		}
	}
}
