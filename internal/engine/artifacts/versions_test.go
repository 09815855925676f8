package artifacts

import (
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const sourceDir = "../../../nodeartifacts"

// goMod is what `go mod edit -json` prints.
type goMod struct {
	Tool    []struct{ Path string }
	Require []struct{ Path, Version string }
	Replace []struct {
		Old, New struct{ Path, Version string }
	}
}

func readGoMod(t *testing.T, name string) goMod {
	t.Helper()
	cmd := exec.Command("go", "mod", "edit", "-json")
	cmd.Dir = filepath.Join(sourceDir, name)
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("read go.mod of %s: %v", name, err)
	}
	var m goMod
	if err := json.Unmarshal(out, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestVersionsAgreeWithGoModules(t *testing.T) {
	v, err := readVersions(os.DirFS(sourceDir))
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(sourceDir)
	if err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for _, e := range entries {
		if e.IsDir() {
			dirs = append(dirs, e.Name())
		}
	}
	if modules := slices.Sorted(maps.Keys(v.Modules)); !slices.Equal(dirs, modules) {
		t.Errorf("directories are %v, versions.json has %v", dirs, modules)
	}
	for name, spec := range v.Modules {
		m := readGoMod(t, name)
		var tools []string
		for _, tool := range m.Tool {
			tools = append(tools, tool.Path)
		}
		slices.Sort(tools)
		if programs := slices.Sorted(maps.Values(spec.Programs)); !slices.Equal(tools, programs) {
			t.Errorf("%s: go.mod has tools %v, versions.json programs %v", name, tools, programs)
		}
		found := false
		for _, r := range m.Require {
			if r.Path == spec.Module {
				found = true
				if r.Version != spec.Version {
					t.Errorf("%s: go.mod has %s %s, versions.json %s", name, r.Path, r.Version, spec.Version)
				}
			}
		}
		if !found {
			t.Errorf("%s: go.mod does not require %s", name, spec.Module)
		}
		// Programs of a repository's other modules are of the same release.
		for _, program := range spec.Programs {
			for _, r := range m.Require {
				if program == r.Path && r.Version != spec.Version {
					t.Errorf("%s: %s is %s beside %s", name, r.Path, r.Version, spec.Version)
				}
			}
		}
		for variable, value := range spec.Variables {
			if strings.EqualFold(variable[strings.LastIndex(variable, ".")+1:], "gitVersion") && value != spec.Version {
				t.Errorf("%s: %s is %s, the module %s", name, variable, value, spec.Version)
			}
		}
		if name, minor, ok := strings.Cut(name, "-"); ok && name == "kubernetes" && !strings.HasPrefix(spec.Version, "v"+minor+".") {
			t.Errorf("kubernetes-%s holds %s", minor, spec.Version)
		}
		for _, r := range m.Replace {
			if want := "v0" + strings.TrimPrefix(spec.Version, "v1"); r.New.Version != want || r.New.Path != r.Old.Path {
				t.Errorf("%s: %s is replaced by %s %s, want %s", name, r.Old.Path, r.New.Path, r.New.Version, want)
			}
		}
	}
}

func TestReferencesNameTheVersionInThem(t *testing.T) {
	v, err := readVersions(os.DirFS(sourceDir))
	if err != nil {
		t.Fatal(err)
	}
	check := func(reference string, refs []string) {
		_, tag, _ := strings.Cut(reference, ":")
		for _, ref := range refs {
			part, _, _ := strings.Cut(ref, "/")
			if m, ok := v.Modules[part]; ok && tag != m.Version && !strings.HasPrefix(tag, m.Version+"-") {
				t.Errorf("%s holds %s %s", reference, ref, m.Version)
			}
		}
	}
	for _, i := range v.MCR.Images {
		if strings.HasPrefix(i.Reference, "aks/command/runtime:") { // has several tools, and a version of its own
			continue
		}
		check(i.Reference, slices.Collect(maps.Values(i.Files)))
	}
	for _, a := range v.MCR.Artifacts {
		check(a.Reference, slices.Collect(maps.Values(a.Files)))
	}
}

func TestModulesHoldNothingButPins(t *testing.T) {
	err := fs.WalkDir(os.DirFS(sourceDir), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && path != "versions.json" && d.Name() != "go.mod" && d.Name() != "go.sum" {
			t.Errorf("%s does not belong there", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
