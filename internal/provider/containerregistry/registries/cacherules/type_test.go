package cacherules

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/provider/providertest"
)

const rules = "/subscriptions/22222222-2222-2222-2222-222222222222/resourceGroups/rg-netiso/providers/Microsoft.ContainerRegistry/registries/netisoreg01/cacheRules/"

// spec is the type's, in a registry that has the repositories which no rule filled.
func spec(repositories []string) resourcetype.Spec[Model] {
	return Spec(Deps{World: &providertest.World{}, Occupied: func(_ resourceid.ID, _, target string) (out []string, _ error) {
		for _, r := range repositories {
			if path, isAny := wildcard(target); isAny && inside(r, path) || !isAny && r == path {
				out = append(out, r)
			}
		}
		return out, nil
	}})
}

func body(source, target string) string {
	return fmt.Sprintf(`{"properties": {"credentialSetResourceId": null, "sourceRepository": %q, "targetRepository": %q}}`, source, target)
}

func put(t *testing.T, d *providertest.Documents, name, b string) error {
	t.Helper()
	_, err := providertest.Prepare(t, d, spec(nil), rules+name, "2023-01-01-preview", b)
	return err
}

func TestBothDialects(t *testing.T) {
	for target, name := range map[string]string{"*": "acr-cache-rule", "aks-managed-repository/*": "aks-managed-mcr"} {
		m, err := providertest.Prepare(t, providertest.New(), spec(nil), rules+name, "2023-01-01-preview", body("mcr.microsoft.com/*", target))
		if err != nil || m.Properties.CreationDate == "" || m.Properties.TargetRepository != target {
			t.Errorf("%s: %+v, %v", target, m, err)
		}
	}
}

func TestRefuses(t *testing.T) {
	const src, dst = "InvalidParameter@properties.sourceRepository", "InvalidParameter@properties.targetRepository"
	for _, c := range []struct{ source, target, want string }{
		{"mcr.microsoft.com/hello", "hello", ""},
		{"mcr.microsoft.com/oss/*", "mirror/*", ""},
		{"registry.example.com:5000/a", "a", ""},
		{"", "a", src},
		{"mcr.microsoft.com", "a", src},
		{"hello/world", "a", src},
		{"mcr.microsoft.com/*/x", "a", src},
		{"mcr.microsoft.com/Hello", "a", src},
		{"mcr.microsoft.com/a", "", dst},
		{"mcr.microsoft.com/a", "A", dst},
		{"mcr.microsoft.com/a", "a:tag", dst},
		{"mcr.microsoft.com/*", "a", dst},
		{"mcr.microsoft.com/a", "*", dst},
		{"docker.io/library/nginx", "nginx", "EnforceDockerAuthentication@properties.credentialSetResourceId"},
	} {
		if got := providertest.Codes(put(t, providertest.New(), "rule-1", body(c.source, c.target))); got != c.want {
			t.Errorf("%s → %s: %q, want %q", c.source, c.target, got, c.want)
		}
	}
	if got := providertest.Codes(put(t, providertest.New(), "abc", body("mcr.microsoft.com/a", "a"))); got != "InvalidParameter@name" {
		t.Errorf("%q", got)
	}
	withSet := strings.Replace(body("quay.io/a", "a"), "null", `"/sets/x"`, 1)
	if got := providertest.Codes(put(t, providertest.New(), "rule-1", withSet)); got != "NotSupported@properties.credentialSetResourceId" {
		t.Errorf("%q", got)
	}
}

func TestNothingButCredentialsChanges(t *testing.T) {
	d := providertest.New()
	if err := put(t, d, "acr-cache-rule", body("mcr.microsoft.com/*", "*")); err != nil {
		t.Fatal(err)
	}
	if err := put(t, d, "acr-cache-rule", body("mcr.microsoft.com/*", "*")); err != nil {
		t.Error(err)
	}
	got := providertest.Codes(put(t, d, "acr-cache-rule", body("mcr.microsoft.com/oss/*", "aks-managed-repository/*")))
	if got != "PropertyChangeNotAllowed@properties.sourceRepository PropertyChangeNotAllowed@properties.targetRepository" {
		t.Errorf("%q", got)
	}
}

func TestOverlaps(t *testing.T) {
	for _, c := range []struct {
		first, second string
		conflict      bool
	}{
		{"*", "aks-managed-repository/*", true}, {"aks-managed-repository/*", "*", true}, {"a/*", "a/*", true}, {"a/*", "a/b/*", true},
		{"a/*", "ab/*", false}, {"a/*", "b/*", false}, {"a/*", "a/b", false}, {"a/b", "a/*", false}, {"a/b", "a/b", true}, {"a/b", "a/b/c", false}, {"*", "a", false},
	} {
		d := providertest.New()
		source := func(target string) string {
			if strings.HasSuffix(target, "*") {
				return "mcr.microsoft.com/*"
			}
			return "mcr.microsoft.com/a"
		}
		if err := put(t, d, "first", body(source(c.first), c.first)); err != nil {
			t.Fatal(err)
		}
		got := providertest.Codes(put(t, d, "second", body(source(c.second), c.second)))
		if (got == "CacheRuleTargetConflict@properties.targetRepository") != c.conflict || !c.conflict && got != "" {
			t.Errorf("%s and %s: %q", c.first, c.second, got)
		}
	}
}

// A rule is not made for repositories that are there, and one that is there stays what it is whatever is pushed.
func TestOccupied(t *testing.T) {
	const code = "TargetRepositoryPrefixMatchesExistingRegistries@properties.targetRepository"
	occupied := spec([]string{"team/app", "hello"})
	for _, c := range []struct{ source, target, want string }{
		{"mcr.microsoft.com/*", "*", code}, {"mcr.microsoft.com/*", "team/*", code}, {"mcr.microsoft.com/hello", "hello", code},
		{"mcr.microsoft.com/*", "aks-managed-repository/*", ""}, {"mcr.microsoft.com/*", "team/app/*", ""}, {"mcr.microsoft.com/hello", "team", ""},
	} {
		_, err := providertest.Prepare(t, providertest.New(), occupied, rules+"rule-1", "2023-01-01-preview", body(c.source, c.target))
		if got := providertest.Codes(err); got != c.want {
			t.Errorf("%s: %q, want %q", c.target, got, c.want)
		}
	}
	d := providertest.New()
	if err := put(t, d, "rule-1", body("mcr.microsoft.com/*", "*")); err != nil {
		t.Fatal(err)
	}
	if _, err := providertest.Prepare(t, d, occupied, rules+"rule-1", "2023-01-01-preview", body("mcr.microsoft.com/*", "*")); err != nil {
		t.Errorf("a rule that is there: %v", err)
	}
}

// However rules come, no repository is ever answered for by two wildcard rules, or by two static ones.
func TestOverlapsProperty(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	parts := []string{"a", "b", "c"}
	for range 50 {
		d := providertest.New()
		var wild, static []string
		for i := range 12 {
			var path []string
			for range r.IntN(4) {
				path = append(path, parts[r.IntN(len(parts))])
			}
			source := "mcr.microsoft.com/x"
			any := r.IntN(2) == 0
			if any {
				path, source = append(path, "*"), "mcr.microsoft.com/*"
			}
			target := strings.Join(path, "/")
			if put(t, d, fmt.Sprintf("rule-%d", i), body(source, target)) != nil {
				continue
			}
			if any {
				wild = append(wild, strings.TrimSuffix(target, "*"))
			} else {
				static = append(static, target)
			}
		}
		for range 200 {
			repository := parts[r.IntN(3)] + "/" + parts[r.IntN(3)] + "/" + parts[r.IntN(3)] + "/x"
			n := 0
			for _, w := range wild {
				if strings.HasPrefix(repository, w) {
					n++
				}
			}
			if n > 1 {
				t.Fatalf("%s is answered for by %d of %v", repository, n, wild)
			}
		}
		seen := map[string]bool{}
		for _, s := range static {
			if seen[s] {
				t.Fatalf("%s twice", s)
			}
			seen[s] = true
		}
	}
}

func TestAtMostAThousand(t *testing.T) {
	d := providertest.New()
	for i := range maxRules {
		d.Put(t, fmt.Sprintf("%sr%d", rules, i), fmt.Sprintf(`{"properties":{"targetRepository":"r%d"}}`, i))
	}
	if got := providertest.Codes(put(t, d, "one-more", body("mcr.microsoft.com/a", "a"))); got != "CacheRuleLimitExceeded@" {
		t.Errorf("%q", got)
	}
}
