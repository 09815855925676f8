package registry

import (
	"fmt"
	"strings"

	"github.com/distribution/reference"
)

// rule is a CacheRule taken apart. A wildcard's two prefixes end in "/" or are empty.
type rule struct {
	name             string
	wildcard         bool
	source, target   string // without the "*"
	host, repository string // of source
}

// parseRule checks and takes apart a cache rule.
// https://learn.microsoft.com/azure/container-registry/wildcards-artifact-cache: "*" only as the last
// path element, on both sides or none.
func parseRule(c CacheRule) (rule, error) {
	r := rule{name: c.Name, source: c.Source, target: c.Target}
	sourceWild, targetWild := strings.HasSuffix(c.Source, "/*"), c.Target == "*" || strings.HasSuffix(c.Target, "/*")
	if sourceWild != targetWild {
		return rule{}, fmt.Errorf("source %q and target %q must both end in a wildcard or neither", c.Source, c.Target)
	}
	r.wildcard = sourceWild
	if r.wildcard {
		r.source, r.target = strings.TrimSuffix(c.Source, "*"), strings.TrimSuffix(c.Target, "*")
	}
	host, repository, _ := strings.Cut(r.source, "/")
	r.host, r.repository = strings.ToLower(host), repository
	if r.host == "" || !r.wildcard && repository == "" {
		return rule{}, fmt.Errorf("source %q is not HOST/REPOSITORY", c.Source)
	}
	for _, name := range []string{repository, r.target} {
		name = strings.TrimSuffix(name, "/")
		if name == "" && r.wildcard {
			continue
		}
		if !isRepository(name) {
			return rule{}, fmt.Errorf("%q in rule %q → %q is not a repository name", name, c.Source, c.Target)
		}
	}
	return r, nil
}

// isRepository reports whether name is a repository name as the distribution spec has it: no host, no tag.
func isRepository(name string) bool {
	named, err := reference.WithName(name)
	return err == nil && named.Name() == name
}

// origin is an upstream repository.
type origin struct {
	rule             string // the cache rule that leads there, for messages
	host, repository string
}

func (o origin) String() string { return o.host + "/" + o.repository }

// match finds where repository comes from: a static rule wins over wildcards, the longest prefix among those.
func match(rules []rule, repository string) (origin, bool) {
	var best *rule
	for i := range rules {
		r := &rules[i]
		if !r.wildcard {
			if r.target == repository {
				return origin{rule: r.name, host: r.host, repository: r.repository}, true
			}
			continue
		}
		rest, ok := strings.CutPrefix(repository, r.target)
		if ok && rest != "" && (best == nil || len(r.target) > len(best.target)) {
			best = r
		}
	}
	if best == nil {
		return origin{}, false
	}
	return origin{rule: best.name, host: best.host, repository: best.repository + strings.TrimPrefix(repository, best.target)}, true
}

// Origin is the upstream repository that a repository of a registry is filled from by the rules, and the name of the
// rule that says so; false when no rule covers it. Rules that make no sense are passed over, as the registry does.
func Origin(rules []CacheRule, repository string) (host, upstream, by string, ok bool) {
	var parsed []rule
	for _, c := range rules {
		if r, err := parseRule(c); err == nil {
			parsed = append(parsed, r)
		}
	}
	o, ok := match(parsed, repository)
	return o.host, o.repository, o.rule, ok
}
