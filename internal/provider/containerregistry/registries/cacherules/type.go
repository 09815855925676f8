// Package cacherules is the resource type Microsoft.ContainerRegistry/registries/cacheRules: which
// repositories a registry fetches from where when it is asked for what it does not have.
//
// https://learn.microsoft.com/azure/container-registry/artifact-cache-overview and
// https://learn.microsoft.com/azure/container-registry/wildcards-artifact-cache
package cacherules

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// Name is the resource type.
const Name = "Microsoft.ContainerRegistry/registries/cacheRules"

const maxRules = 1000

// Model is the document of a cache rule.
type Model struct {
	Properties Properties `json:"properties"`
}

// Properties are a cache rule's.
type Properties struct {
	CredentialSetResourceID *string `json:"credentialSetResourceId,omitempty"`
	SourceRepository        string  `json:"sourceRepository"`
	TargetRepository        string  `json:"targetRepository"`
	CreationDate            string  `json:"creationDate,omitempty"`
}

// World is the machine's state, computed from all documents.
type World interface {
	// Sync returns when the machine agrees with the documents stored before the call.
	Sync(ctx context.Context) error
}

// Deps are what the type does its work with.
type Deps struct {
	World World
	// Occupied are the repositories of the registry that a rule from source to target would fill, and that hold what
	// was not fetched from there.
	Occupied func(registry resourceid.ID, source, target string) ([]string, error)
}

// Type is the resource type.
func Type(d Deps) resourcetype.Definition { return resourcetype.Define(Spec(d)) }

// Spec declares the type.
func Spec(d Deps) resourcetype.Spec[Model] {
	return resourcetype.Spec[Model]{
		Name:        Name,
		Placement:   resourcetype.Inherited,
		NameRule:    regexp.MustCompile(`^[a-zA-Z0-9]+(-[a-zA-Z0-9]+)*$`),
		NameCode:    "InvalidParameter",
		NameMessage: "The cache rule name is invalid. It must be 5 to 50 letters and digits, in groups parted by single hyphens.",
		Prepare:     d.prepare,
		Reconcile: func(ctx context.Context, r *resourcetype.Reconciliation[Model]) (resourcetype.Result, error) {
			r.Step("cache rule")
			if err := d.World.Sync(ctx); err != nil {
				return resourcetype.Result{}, fmt.Errorf("apply cache rule %s: %w", r.ID, err)
			}
			return resourcetype.Result{}, nil
		},
	}
}

func (d Deps) prepare(ctx context.Context, r *resourcetype.Request[Model]) error {
	p := &r.Model.Properties
	var problems []*armerror.Error
	if n := len(r.ID.Name()); n < 5 || n > 50 {
		problems = append(problems, armerror.New("InvalidParameter", "The cache rule name '%s' is invalid. It must be between 5 and 50 characters long.", r.ID.Name()).WithTarget("name"))
	}
	problems = append(problems, validate(p)...)
	parent, _ := r.ID.Parent()
	if r.Existing != nil {
		old := r.Existing.Properties
		for _, c := range []struct{ property, was, is string }{
			{"sourceRepository", old.SourceRepository, p.SourceRepository}, {"targetRepository", old.TargetRepository, p.TargetRepository},
		} {
			if c.was != c.is {
				problems = append(problems, armerror.New(armerror.PropertyChangeNotAllowed, "The property %s of cache rule '%s' cannot be changed from '%s' to '%s'. Delete the rule and create it again.", c.property, r.ID.Name(), c.was, c.is).WithTarget("properties."+c.property))
			}
		}
	} else if len(problems) == 0 {
		siblings, err := r.Documents.List(ctx, parent, Name)
		if err != nil {
			return fmt.Errorf("list the cache rules of %s: %w", parent, err)
		}
		if len(siblings) >= maxRules {
			problems = append(problems, armerror.New("CacheRuleLimitExceeded", "The registry '%s' has the maximum of %d cache rules.", parent.Name(), maxRules))
		}
		problems = append(problems, conflicts(p.TargetRepository, siblings)...)
		occupied, err := d.Occupied(parent, p.SourceRepository, p.TargetRepository)
		if err != nil {
			return fmt.Errorf("look for repositories of %s that rule %s would fill: %w", parent, r.ID.Name(), err)
		}
		if len(occupied) > 0 {
			problems = append(problems, taken(p.TargetRepository))
		}
	}
	if err := armerror.Join(problems); err != nil {
		return err
	}
	p.CredentialSetResourceID = nil
	p.CreationDate = time.Now().UTC().Format(time.RFC3339Nano)
	if r.Existing != nil {
		p.CreationDate = r.Existing.Properties.CreationDate
	}
	return nil
}

var (
	// OCI distribution-spec, "Pulling manifests": a repository name.
	repository = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	host       = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+(:[0-9]{1,5})?$`)
)

func validate(p *Properties) []*armerror.Error {
	var problems []*armerror.Error
	add := func(property, code, format string, args ...any) {
		problems = append(problems, armerror.New(code, format, args...).WithTarget("properties."+property))
	}
	server, path, _ := strings.Cut(p.SourceRepository, "/")
	path, fromAny := wildcard(path)
	switch {
	case p.SourceRepository == "":
		add("sourceRepository", "InvalidParameter", "The parameter sourceRepository is required.")
	case !host.MatchString(server) || !fromAny && path == "" || path != "" && !repository.MatchString(path):
		add("sourceRepository", "InvalidParameter", "The source repository '%s' is invalid. It must be a login server and a repository, in which '*' may only be the last path element.", p.SourceRepository)
	case server == "docker.io" || strings.HasSuffix(server, ".docker.io"):
		if p.CredentialSetResourceID == nil || *p.CredentialSetResourceID == "" {
			add("credentialSetResourceId", "EnforceDockerAuthentication", "Cannot create cache rule pointing to Docker Hub without credentials. Please create a credential set and try again.")
		}
	}
	target, toAny := wildcard(p.TargetRepository)
	switch {
	case p.TargetRepository == "":
		add("targetRepository", "InvalidParameter", "The parameter targetRepository is required.")
	case target != "" && !repository.MatchString(target) || target == "" && !toAny || len(p.TargetRepository) > 256:
		add("targetRepository", "InvalidParameter", "The target repository '%s' is invalid. It must be a repository, in which '*' may only be the last path element.", p.TargetRepository)
	case fromAny != toAny:
		add("targetRepository", "InvalidParameter", "Both the source repository '%s' and the target repository '%s' must end in '*', or neither.", p.SourceRepository, p.TargetRepository)
	}
	if p.CredentialSetResourceID != nil && *p.CredentialSetResourceID != "" {
		if server == "mcr.microsoft.com" {
			add("credentialSetResourceId", "InvalidParameter", "Cache rules for mcr.microsoft.com cannot have credentials.")
		} else {
			add("credentialSetResourceId", armerror.NotSupported, "Credential sets are not supported by Cloister.")
		}
	}
	return problems
}

// wildcard takes a last path element "*" away.
func wildcard(path string) (string, bool) {
	if path == "*" {
		return "", true
	}
	return strings.CutSuffix(path, "/*")
}

// conflicts finds the rules that would answer for the same repositories: two wildcard rules where one's
// target contains the other's, or two static rules of one target. A static rule may lie in a wildcard.
func conflicts(target string, siblings []resourcestore.Resource) []*armerror.Error {
	var problems []*armerror.Error
	mine, isAny := wildcard(target)
	for _, s := range siblings {
		var m Model
		if json.Unmarshal(s.Body, &m) != nil {
			continue
		}
		other, otherAny := wildcard(m.Properties.TargetRepository)
		if isAny == otherAny && (mine == other || isAny && (inside(mine, other) || inside(other, mine))) {
			problems = append(problems, armerror.New("CacheRuleTargetConflict", "The target repository '%s' overlaps with the target repository '%s' of cache rule '%s'.", target, m.Properties.TargetRepository, s.ID.Name()).WithTarget("properties.targetRepository").WithStatus(409))
		}
	}
	return problems
}

// taken is a target whose repositories are there already: https://github.com/Azure/acr/issues/789.
func taken(target string) *armerror.Error {
	const code = "TargetRepositoryPrefixMatchesExistingRegistries"
	message := "There is a repository in the registry which matches the target repository '%s'."
	if _, isAny := wildcard(target); isAny {
		message = "There are one or more target repositories in the registry which match the target repository prefix '%s'."
	}
	return armerror.New(code, message, target).WithTarget("properties.targetRepository").WithStatus(409)
}

// inside reports whether the wildcard at outer covers the path.
func inside(path, outer string) bool { return outer == "" || strings.HasPrefix(path, outer+"/") }
