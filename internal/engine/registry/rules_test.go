package registry

import "testing"

func TestMatch(t *testing.T) {
	t.Parallel()
	rules := func(pairs ...[2]string) []rule {
		var all []rule
		for _, p := range pairs {
			r, err := parseRule(CacheRule{Name: p[1], Source: p[0], Target: p[1]})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, r)
		}
		return all
	}
	walkthrough := rules([2]string{"mcr.microsoft.com/*", "*"})
	today := rules([2]string{"mcr.microsoft.com/*", "aks-managed-repository/*"})
	nested := rules(
		[2]string{"mcr.microsoft.com/*", "mirror/*"},
		[2]string{"ghcr.io/deep/*", "mirror/deep/*"},
		[2]string{"quay.io/special/one", "mirror/deep/one"},
		[2]string{"docker.io/library/*", "hub/*"},
	)
	for _, tt := range []struct {
		rules      []rule
		repository string
		want       string // "" for none
	}{
		{walkthrough, "oss/kubernetes/pause", "mcr.microsoft.com/oss/kubernetes/pause"},
		{walkthrough, "pause", "mcr.microsoft.com/pause"},
		{today, "aks-managed-repository/oss/kubernetes/pause", "mcr.microsoft.com/oss/kubernetes/pause"},
		{today, "aks-managed-repository", ""},
		{today, "aks-managed-repositoryx/oss", ""},
		{today, "oss/kubernetes/pause", ""},
		{nested, "mirror/a", "mcr.microsoft.com/a"},
		{nested, "mirror/deep/a/b", "ghcr.io/deep/a/b"},
		{nested, "mirror/deep/one", "quay.io/special/one"},
		{nested, "mirror/deep/one/more", "ghcr.io/deep/one/more"},
		{nested, "hub/alpine", "docker.io/library/alpine"},
		{nil, "anything", ""},
	} {
		got, ok := match(tt.rules, tt.repository)
		if ok != (tt.want != "") || ok && got.String() != tt.want {
			t.Errorf("%s comes from %q, want %q", tt.repository, got.String(), tt.want)
		}
	}
}

func TestParseRuleRefuses(t *testing.T) {
	t.Parallel()
	for _, p := range [][2]string{
		{"mcr.microsoft.com/*", "repo"}, // a wildcard on one side
		{"mcr.microsoft.com/a", "*"},
		{"mcr.microsoft.com", "a"}, // no repository
		{"", "a"},
		{"mcr.microsoft.com/a*", "b*"}, // a wildcard that is not a path element
		{"mcr.microsoft.com/*/a", "b"},
		{"mcr.microsoft.com/A", "a"},
		{"mcr.microsoft.com/a", "../a"},
	} {
		if r, err := parseRule(CacheRule{Source: p[0], Target: p[1]}); err == nil {
			t.Errorf("%q → %q became %+v", p[0], p[1], r)
		}
	}
}

func FuzzMatch(f *testing.F) {
	f.Add("mcr.microsoft.com/*", "aks-managed-repository/*", "aks-managed-repository/oss/pause")
	f.Add("mcr.microsoft.com/a", "b", "b")
	f.Add("h/*", "*", "x")
	f.Fuzz(func(t *testing.T, source, target, repository string) {
		r, err := parseRule(CacheRule{Source: source, Target: target})
		if err != nil || !isRepository(repository) {
			return
		}
		from, ok := match([]rule{r}, repository)
		if ok && !isRepository(from.repository) {
			t.Errorf("rule %q → %q leads %q to %q", source, target, repository, from.repository)
		}
	})
}
