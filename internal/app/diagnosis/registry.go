package diagnosis

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/engine/node/bootstrap"
	"github.com/cloister-dev/cloister/internal/engine/registry"
)

// mcr is the one registry that nodes are told a mirror of (AgentBaker, cse_config.sh).
const mcr = "mcr.microsoft.com"

// bootstrapImage is what every node pulls through the registry before its kubelet starts.
var bootstrapImage = wanted{bootstrap.SandboxImage, true}

// bootstrapArtifacts are what a node pulls beside it, each of which a rule of its own may stand before.
var bootstrapArtifacts = []string{bootstrap.KubernetesRepository, bootstrap.CredentialProviderRepository}

// managedPrefix is where today's recipe caches mcr.microsoft.com.
const managedPrefix = "aks-managed-repository"

type registryView struct {
	Location string
	// Properties are those that decide who gets in.
	Properties struct {
		ProvisioningState, LoginServer, PublicNetworkAccess string
		AnonymousPullEnabled                                bool
		Policies                                            struct {
			AuthenticationAsARM struct{ Status string } `json:"azureADAuthenticationAsArmPolicy"`
		}
	}
}

// registryOf is the cluster's bootstrap registry; zero when artifacts come from MCR directly, or it has none yet.
func (c *cluster) registryOf() resourceid.ID {
	if !c.cached() {
		return resourceid.ID{}
	}
	id, err := resourceid.Parse(c.Properties.BootstrapProfile.ContainerRegistryID)
	if err != nil {
		return resourceid.ID{}
	}
	return id
}

// managesRegistry reports whether AKS made the registry.
func (c *cluster) managesRegistry() bool {
	id := c.registryOf()
	return !id.IsZero() && c.nodeGroup().Contains(id)
}

// registryService is how a VNet finds the registry.
func registryService(id resourceid.ID, v registryView, vnet resourceid.ID) service {
	login := v.Properties.LoginServer
	name, domain, _ := strings.Cut(login, ".")
	data := name + "." + v.Location + ".data." + domain
	return service{
		target: id, group: "registry", zone: "privatelink." + domain, vnet: vnet, linked: true,
		hosts: []host{
			{fqdn: login, record: name, member: "registry"},
			{fqdn: data, record: name + "." + v.Location + ".data", member: "registry_data_" + v.Location},
		},
	}
}

// wanted is an image as a node asks the cluster's registry for it.
type wanted struct {
	image string // repository and tag
	// mirrored is true for one of mcr.microsoft.com, which a cache rule must lead to. Any other lies in the registry itself.
	mirrored bool
}

// pull follows a node's way to an image in the cluster's registry.
func (w *world) pull(ctx context.Context, c *chain, of *cluster, from machine, image wanted) {
	id := of.registryOf()
	c.service = linkRegistry
	var v registryView
	if id.IsZero() || !w.docs.Read(id, &v) {
		var mend []string
		if id.IsZero() || of.managesRegistry() {
			mend = []string{of.reconcile()}
		}
		c.broken(linkRegistry, or(id.String(), of.id.String()), mend, "the cluster's bootstrap registry does not exist")
		return
	}
	s := registryService(id, v, of.vnet())
	s.subnet, s.dns = w.endpointSubnet(of.vnet(), of.subnet()), w.resolverFor(ctx, of, from, of.vnet())
	if of.managesRegistry() {
		s.reconcile = of.reconcile()
	}
	if w.publicly(ctx, c, s, v, of, from) {
		w.role(c, id, v, of)
		w.rulesFor(c, id, of, image)
		return
	}
	w.names(ctx, c, s, func(c *chain, hosts []host, usable bool) {
		reached := usable && w.paths(ctx, c, of, from, hosts)
		w.answers(ctx, c, id, v, of, from, hosts, reached, image)
	})
}

// publicly looks at a registry that is reached by its public address: nothing in the VNet stands for it, and there is a way
// out. It returns false when the private way is what counts.
func (w *world) publicly(ctx context.Context, c *chain, s service, v registryView, of *cluster, from machine) bool {
	if v.Properties.PublicNetworkAccess == "Disabled" || of.isolated() {
		return false
	}
	if zone, zoned := w.zoneFor(s.zone, s.dns.sees, s.target); zoned && zone.linked || len(w.endpointsTo(ctx, s.target, s.vnet)) > 0 {
		return false
	}
	s.linked = false
	c.together(
		func(c *chain) { w.resolve(ctx, c, s, s.hosts) },
		func(c *chain) { w.wayOut(ctx, c, of, from) },
	)
	c.fine(linkRegistry, s.target.String(), "its public endpoint is open")
	return true
}

// paths tries the connection to each of the hosts from a node.
func (w *world) paths(ctx context.Context, c *chain, of *cluster, from machine, hosts []host) bool {
	var lost atomic.Bool
	each(c, hosts, func(c *chain, h host) {
		for _, a := range h.want {
			if !w.path(ctx, c, of, from, h.fqdn, netip.AddrPortFrom(a, 443)) {
				lost.Store(true)
			}
		}
	})
	return !lost.Load()
}

// answers asks the registry itself, and says by the documents why it answers so.
func (w *world) answers(ctx context.Context, c *chain, id resourceid.ID, v registryView, of *cluster, from machine, hosts []host, reached bool, image wanted) {
	subject := id.String()
	_, client, principal := of.kubelet()
	if v.Properties.AnonymousPullEnabled {
		client, principal = "", ""
	}
	repository, tag := repositoryOf(image.image)
	source := hosts[0].fqdn
	if image.mirrored {
		repository, source = prefixed(of, repository), mcr
	}
	var answer ManifestAnswer
	var err error
	asked := reached && from.ID != "" && len(hosts[0].want) > 0
	if asked {
		answer, err = w.machine.Manifest(ctx, from.ID, ManifestQuestion{
			Host: hosts[0].fqdn, Repository: repository, Reference: tag, Address: hosts[0].want[0], Principal: principal, ClientID: client,
		})
	}
	switch {
	case !asked:
		c.unknown(linkRegistry, subject, "it could not be asked from a node")
	case err != nil:
		c.broken(linkRegistry, subject, nil, "it does not answer from node %s: %v", from.Name, err)
	case answer.Status == http.StatusForbidden && answer.Step == "/v2/":
		c.broken(linkRegistry, subject, nil, "it refuses the node's address: 403 %s", answer.Text)
	default:
		c.fine(linkRegistry, subject, "it answers node %s", from.Name)
	}
	w.identity(c, of)
	w.role(c, id, v, of)
	w.rulesFor(c, id, of, image)
	switch whole := repository + ":" + tag; {
	case !asked || err != nil || c.isBroken(linkRegistry, linkRole, linkRule):
		c.unknown(linkUpstream, source+"/"+image.image, "%s was not asked for", whole)
	case answer.Step != "manifest":
		c.broken(linkRole, subject, w.grant(of, id), "the registry refuses the nodes' identity at %s: %d %s", answer.Step, answer.Status, answer.Text)
	case answer.Status == http.StatusNotFound:
		c.broken(linkUpstream, source+"/"+image.image, nil, "the registry answers 404 for %s: %s has no such image", whole, source)
	case answer.Status >= 300:
		c.broken(linkUpstream, source+"/"+image.image, nil, "the registry answers %d for %s: %s", answer.Status, whole, answer.Text)
	default:
		c.fine(linkUpstream, source+"/"+image.image, "the registry serves %s", whole)
	}
}

// repositoryOf takes an image's name, which has no host, apart.
func repositoryOf(image string) (repository, reference string) {
	if before, digest, ok := strings.Cut(image, "@"); ok {
		repository, _ = repositoryOf(before)
		return repository, digest
	}
	if i := strings.LastIndex(image, ":"); i > strings.LastIndex(image, "/") {
		return image[:i], image[i+1:]
	}
	return image, "latest"
}

// prefixed is what a node asks the registry for, for a repository of mcr.microsoft.com.
func prefixed(of *cluster, repository string) string {
	if _, prefix, ok := strings.Cut(of.Cloister.RegistryServer, "/"); ok {
		return prefix + "/" + repository
	}
	return repository
}

// identity looks for the identity that nodes pull with.
func (w *world) identity(c *chain, of *cluster) {
	id, client, _ := of.kubelet()
	switch {
	case id.IsZero():
		c.unknown(linkIdentity, of.id.String(), "the cluster has no kubelet identity yet")
	case !w.docs.Has(id):
		c.broken(linkIdentity, id.String(), w.remakeIdentity(of, id), "the kubelet identity does not exist any more: the nodes get no token")
	default:
		var v struct{ Properties struct{ ClientID string } }
		if w.docs.Read(id, &v); !strings.EqualFold(v.Properties.ClientID, client) {
			c.broken(linkIdentity, id.String(), []string{of.reconcile()}, "the identity was made anew: the nodes ask for client ID %s, and it has %s", client, v.Properties.ClientID)
			return
		}
		c.fine(linkIdentity, id.String(), "client ID %s", client)
	}
}

// remakeIdentity makes a kubelet identity again, with the roles that a new principal needs.
func (w *world) remakeIdentity(of *cluster, id resourceid.ID) []string {
	if of.nodeGroup().Contains(id) {
		return []string{of.reconcile()}
	}
	principal := fmt.Sprintf(`"$(%s)"`, az("identity", "show", "-g", id.ResourceGroup(), "-n", id.Name(), "--query", "principalId", "-o", "tsv"))
	lines := []string{az("identity", "create", "-g", id.ResourceGroup(), "-n", id.Name())}
	for _, i := range of.Identity.UserAssignedIdentities {
		lines = append(lines, az("role", "assignment", "create", "--role", "Managed Identity Operator", "--scope", id.String(), "--assignee-object-id", i.PrincipalID, "--assignee-principal-type", "ServicePrincipal"))
	}
	if registry := of.registryOf(); !registry.IsZero() {
		lines = append(lines, az("role", "assignment", "create", "--role", "AcrPull", "--scope", registry.String(), "--assignee-object-id", principal, "--assignee-principal-type", "ServicePrincipal"))
	}
	return lines
}

// role asks whether the nodes' identity may pull.
func (w *world) role(c *chain, id resourceid.ID, v registryView, of *cluster) {
	kubelet, _, principal := of.kubelet()
	if v.Properties.AnonymousPullEnabled {
		c.fine(linkRole, id.String(), "the registry serves everyone (anonymous pull)")
		return
	}
	r, there := w.registry(id)
	switch {
	case principal == "":
		c.unknown(linkRole, id.String(), "the cluster has no kubelet identity yet")
	case !there:
		c.unknown(linkRole, id.String(), "the registry is not served yet")
	case slices.Contains(accessOf(r, principal), registry.Pull) && v.Properties.Policies.AuthenticationAsARM.Status == "disabled":
		// The node's own login has a token for registries; the kubelet's credential provider has one for ARM.
		c.broken(linkRole, id.String(), []string{az("acr", "config", "authentication-as-arm", "update", "-g", id.ResourceGroup(), "-r", id.Name(), "--status", "enabled")},
			"%s may pull, but the registry takes no tokens for Azure Resource Manager, with which kubelets come", kubelet.Name())
	case slices.Contains(accessOf(r, principal), registry.Pull):
		c.fine(linkRole, id.String(), "%s may pull", kubelet.Name())
	default:
		c.broken(linkRole, id.String(), w.grant(of, id), "%s (object ID %s) has no role that lets it pull, such as AcrPull, and anonymous pull is off", kubelet.Name(), principal)
	}
}

func accessOf(r registry.Registry, principal string) []string {
	for p, can := range r.Access {
		if strings.EqualFold(p, principal) {
			return can
		}
	}
	return nil
}

func (w *world) grant(of *cluster, id resourceid.ID) []string {
	if of.managesRegistry() {
		return []string{of.reconcile()}
	}
	_, _, principal := of.kubelet()
	return []string{az("role", "assignment", "create", "--role", "AcrPull", "--scope", id.String(), "--assignee-object-id", principal, "--assignee-principal-type", "ServicePrincipal")}
}

// rulesFor looks at the rule for the image, and at those for all that a node wants where the image stands for that.
func (w *world) rulesFor(c *chain, id resourceid.ID, of *cluster, image wanted) {
	if !image.mirrored {
		return
	}
	w.rule(c, id, of, image.image)
	if image != bootstrapImage {
		return
	}
	for _, other := range bootstrapArtifacts {
		own := chain{service: c.service}
		if w.rule(&own, id, of, other); own.isBroken(linkRule) && !c.isBroken(linkRule) {
			c.links = append(c.links, own.links...)
		}
	}
}

// rule finds out where the registry fills the image's repository from.
func (w *world) rule(c *chain, id resourceid.ID, of *cluster, image string) {
	wanted, _ := repositoryOf(image)
	repository := prefixed(of, wanted)
	rules := w.rules(id)
	host, upstream, by, ok := registry.Origin(rules, repository)
	switch {
	case !ok && len(rules) == 0:
		c.broken(linkRule, id.String(), w.makeRule(of, id), "the registry has no cache rule: %s is not there", repository)
	case !ok:
		c.broken(linkRule, id.String(), w.makeRule(of, id), "no cache rule covers %s: there is %s", repository, told(rules))
	case host == mcr && upstream == wanted:
		c.fine(linkRule, id.Child("cacheRules", by).String(), "cache rule %s fills %s from %s/%s", by, repository, host, upstream)
	default:
		mend := []string{az("acr", "cache", "delete", "-g", id.ResourceGroup(), "-r", id.Name(), "-n", by, "--yes")}
		if others := slices.DeleteFunc(rules, func(r registry.CacheRule) bool { return r.Name == by }); !covers(others, repository, wanted) {
			mend = append(mend, w.makeRule(of, id)...)
		}
		c.broken(linkRule, id.Child("cacheRules", by).String(), mend, "cache rule %s fills %s from %s/%s, which is not %s/%s", by, repository, host, upstream, mcr, wanted)
	}
}

func covers(rules []registry.CacheRule, repository, wanted string) bool {
	host, upstream, _, ok := registry.Origin(rules, repository)
	return ok && host == mcr && upstream == wanted
}

func told(rules []registry.CacheRule) string {
	var out []string
	for _, r := range rules {
		out = append(out, fmt.Sprintf("%s (%s → %s)", r.Name, r.Source, r.Target))
	}
	return strings.Join(out, ", ")
}

func (w *world) rules(id resourceid.ID) []registry.CacheRule {
	var out []registry.CacheRule
	for _, r := range w.docs.Under(id, cacheRuleType) {
		var doc struct {
			Properties struct{ SourceRepository, TargetRepository string }
		}
		if !r.Deleting && w.docs.Read(r.ID, &doc) {
			out = append(out, registry.CacheRule{Name: r.ID.Name(), Source: doc.Properties.SourceRepository, Target: doc.Properties.TargetRepository})
		}
	}
	return out
}

// makeRule makes the rule that the nodes' server stands for: with the prefix of today's recipe, or the page's. Nodes that have
// still to be provisioned are given a server by the rules there are, so that today's recipe is what they are told.
func (w *world) makeRule(of *cluster, id resourceid.ID) []string {
	if of.managesRegistry() {
		return []string{of.reconcile()}
	}
	name, target := "aks-managed-mcr", managedPrefix+"/*"
	if of.Cloister.RegistryServer != "" && !strings.Contains(of.Cloister.RegistryServer, "/") && w.provisioned(of, of.Cloister.RegistryServer) {
		name, target = "acr-cache-rule", "*"
	}
	return []string{az("acr", "cache", "create", "-g", id.ResourceGroup(), "-r", id.Name(), "-n", name, "--source-repo", mcr+"/*", "--target-repo", target)}
}

// provisioned reports whether a node lives by the server.
func (w *world) provisioned(of *cluster, server string) bool {
	return slices.ContainsFunc(of.machines, func(m machine) bool {
		result, err := w.machine.Provision(m.ID)
		return m.RegistryServer == server && err == nil && result.Done && result.ExitCode == bootstrap.Success
	})
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
