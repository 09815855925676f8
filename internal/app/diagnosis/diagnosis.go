// Package diagnosis says why a resource is not healthy: it follows the chain of what the resource stands on, and
// tells of each link what was seen, which one the others follow from, and which commands mend it (decision 12).
//
// It changes nothing. What a link is said to be comes from the documents, for a command mends a document, and from the
// machine where that can be asked, for a packet meets the machine. Codes and exit statuses: AKS's, as in
// provider/containerservice and engine/node/bootstrap.
package diagnosis

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/cloister-dev/cloister/internal/app/documents"
	"github.com/cloister-dev/cloister/internal/app/projection"
	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/engine/node/bootstrap"
	"github.com/cloister-dev/cloister/internal/engine/privatedns"
	"github.com/cloister-dev/cloister/internal/lib/adminapi"
)

// Snapshot is the world as the documents have it at one moment.
type Snapshot struct {
	Documents []resourcestore.Resource
	State     projection.State // what the machine is to be by them
	// Faults are the errors of the last operations that failed, by the keys of the clusters they were on.
	Faults map[string]*armerror.Error
}

// Machine answers what can be asked of the machine. Questions are asked at the same time, and each ends in a few seconds,
// or with its context.
type Machine interface {
	// Lookup asks Azure's resolver in a virtual network, as its guests do.
	Lookup(ctx context.Context, network resourceid.ID, name string) (privatedns.Answer, error)
	// LookupAt asks another DNS server from a node.
	LookupAt(ctx context.Context, machine string, server netip.Addr, name string) (privatedns.Answer, error)
	// Connect opens a TCP connection from a node, and closes it.
	Connect(ctx context.Context, machine string, to netip.AddrPort) error
	// Manifest asks a registry for a manifest from a node, as the principal; "" is nobody.
	Manifest(ctx context.Context, machine string, q ManifestQuestion) (ManifestAnswer, error)
	// Metadata asks the instance metadata service for the node's own metadata.
	Metadata(ctx context.Context, machine string) error
	// Provision is how far the provisioning of a node is.
	Provision(machine string) (bootstrap.Result, error)
	// Pods are the pods of a cluster that wait for something, with why.
	Pods(ctx context.Context, cluster string) ([]Pod, error)
}

// ManifestQuestion names a manifest and where it is asked for.
type ManifestQuestion struct {
	Host, Repository, Reference string
	Address                     netip.Addr // of Host
	Principal, ClientID         string     // a managed identity; "" is nobody
}

// ManifestAnswer is what the registry said at the step that ended the question.
type ManifestAnswer struct {
	Step   string // "/v2/", "/oauth2/exchange", "/oauth2/token" or "manifest"
	Status int    // HTTP
	Text   string // of a refusal
}

// Pod is one that waits.
type Pod struct {
	Namespace, Name, Node string
	Reason, Message       string // of the container that waits, or of the pod's condition
	Image                 string // that it waits for
}

// Diagnoser finds out why.
type Diagnoser struct {
	// Documents are all documents, which is all that traps are read from: it is asked for by every status and every write.
	Documents func(ctx context.Context) ([]resourcestore.Resource, error)
	Snapshot  func(ctx context.Context) (Snapshot, error)
	Machine   Machine
}

// ErrNotFound is told of a name that nothing has.
var ErrNotFound = errors.New("no such resource")

// Everything diagnoses what is not healthy, and tells of clusters that are in a trap; nothing when all is well.
func (d *Diagnoser) Everything(ctx context.Context) ([]adminapi.Diagnosis, error) {
	w, err := d.look(ctx)
	if err != nil {
		return nil, err
	}
	clusters, err := w.clusters()
	if err != nil {
		return nil, err
	}
	var parts []part
	for _, c := range clusters {
		parts = append(parts, func() []adminapi.Diagnosis {
			of := w.diagnoseCluster(ctx, c)
			if of.Healthy {
				of.Links = []adminapi.Link{} // only the warnings are news
			}
			return []adminapi.Diagnosis{of}
		}, func() []adminapi.Diagnosis {
			return w.diagnosePods(ctx, c, Pod.pullFails)
		})
	}
	for _, r := range w.docs.Of(endpointType) {
		parts = append(parts, func() []adminapi.Diagnosis {
			return []adminapi.Diagnosis{w.diagnoseEndpoint(ctx, r.ID)}
		})
	}
	out := []adminapi.Diagnosis{}
	for _, of := range allOf(parts) {
		if !of.Healthy || len(of.Warnings) > 0 {
			out = append(out, of)
		}
	}
	return out, nil
}

// part is a part of an answer, which does not wait for the others.
type part func() []adminapi.Diagnosis

func allOf(parts []part) []adminapi.Diagnosis {
	return slices.Concat(atOnce(parts, part.ask)...)
}

func (p part) ask() []adminapi.Diagnosis { return p() }

// Find diagnoses what a user names: an ID, RG/NAME of a cluster, or the name of a cluster, node, pod (NAMESPACE/NAME or
// NAME), private endpoint, registry or private DNS zone. A name that several have is about all of them.
func (d *Diagnoser) Find(ctx context.Context, name string) ([]adminapi.Diagnosis, error) {
	w, err := d.look(ctx)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(name, "/") {
		return w.byID(ctx, name)
	}
	var out []adminapi.Diagnosis
	group, rest, grouped := strings.Cut(name, "/")
	for _, kind := range []string{clusterType, endpointType, registryType, zoneType} {
		for _, r := range w.docs.Of(kind) {
			if strings.EqualFold(r.ID.Name(), name) || grouped && strings.EqualFold(r.ID.ResourceGroup(), group) && strings.EqualFold(r.ID.Name(), rest) {
				of, err := w.diagnose(ctx, r.ID)
				if err != nil {
					return nil, err
				}
				out = append(out, of)
			}
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	clusters, err := w.clusters()
	if err != nil {
		return nil, err
	}
	var parts []part
	for _, c := range clusters {
		for _, m := range c.machines {
			if strings.EqualFold(m.Name, name) {
				parts = append(parts, func() []adminapi.Diagnosis {
					return []adminapi.Diagnosis{w.diagnoseNode(ctx, c, m)}
				})
			}
		}
		parts = append(parts, func() []adminapi.Diagnosis {
			return w.diagnosePods(ctx, c, func(p Pod) bool { return p.Name == name || p.Namespace+"/"+p.Name == name })
		})
	}
	if out = allOf(parts); len(out) == 0 {
		return nil, fmt.Errorf("%w: no cluster, node, private endpoint, registry or private DNS zone is called %q, and no pod of that name waits for anything", ErrNotFound, name)
	}
	return out, nil
}

// Cluster diagnoses one cluster.
func (d *Diagnoser) Cluster(ctx context.Context, id resourceid.ID) (*adminapi.Diagnosis, error) {
	w, err := d.look(ctx)
	if err != nil {
		return nil, err
	}
	c, err := w.cluster(id)
	if err != nil {
		return nil, err
	}
	of := w.diagnoseCluster(ctx, c)
	return &of, nil
}

// Warnings are the traps that a cluster is in.
func (d *Diagnoser) Warnings(ctx context.Context, cluster resourceid.ID) ([]adminapi.Warning, error) {
	warnings, _, err := d.Told(ctx, cluster)
	return warnings, err
}

// Told is what the documents tell of a cluster: the traps that it is in, and by the names of nodes why a reimage would make
// others of them. There is nothing to tell of a cluster that is gone.
func (d *Diagnoser) Told(ctx context.Context, id resourceid.ID) (warnings []adminapi.Warning, outdated map[string]string, err error) {
	all, err := d.Documents(ctx)
	if err != nil {
		return nil, nil, err
	}
	w := &world{docs: documents.New(all)}
	c, err := w.cluster(id)
	if errors.Is(err, ErrNotFound) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	outdated = map[string]string{}
	for _, m := range c.machines {
		if why := c.outdated(m); why != "" {
			outdated[m.Name] = why
		}
	}
	return w.warnings(c), outdated, nil
}

// byID diagnoses a resource, or a node or pod by the ID that a Diagnosis gives it.
func (w *world) byID(ctx context.Context, text string) ([]adminapi.Diagnosis, error) {
	id, err := resourceid.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	for _, r := range w.docs.Of(clusterType) {
		rest, below := strings.CutPrefix(id.Key(), r.ID.Key()+"/")
		if !below {
			continue
		}
		c, err := w.cluster(r.ID)
		if err != nil {
			return nil, err
		}
		kind, name, _ := strings.Cut(rest, "/")
		switch kind {
		case "nodes":
			for _, m := range c.machines {
				if strings.EqualFold(m.Name, name) {
					return []adminapi.Diagnosis{w.diagnoseNode(ctx, c, m)}, nil
				}
			}
		case "pods":
			if out := w.diagnosePods(ctx, c, func(p Pod) bool { return p.Namespace+"/"+p.Name == name }); len(out) > 0 {
				return out, nil
			}
		case "agentpools":
			return []adminapi.Diagnosis{w.diagnoseCluster(ctx, c)}, nil
		}
		return nil, fmt.Errorf("%w: %s", ErrNotFound, text)
	}
	of, err := w.diagnose(ctx, id)
	if err != nil {
		return nil, err
	}
	return []adminapi.Diagnosis{of}, nil
}

// diagnose diagnoses a resource that has a document.
func (w *world) diagnose(ctx context.Context, id resourceid.ID) (adminapi.Diagnosis, error) {
	if !w.docs.Has(id) {
		return adminapi.Diagnosis{}, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	switch {
	case id.Is(clusterType):
		c, err := w.cluster(id)
		if err != nil {
			return adminapi.Diagnosis{}, err
		}
		return w.diagnoseCluster(ctx, c), nil
	case id.Is(endpointType):
		return w.diagnoseEndpoint(ctx, id), nil
	case id.Is(registryType):
		return w.diagnoseRegistry(ctx, id), nil
	case id.Is(zoneType):
		return w.diagnoseZone(ctx, id), nil
	}
	return adminapi.Diagnosis{}, fmt.Errorf("%w: resources of type %s have no diagnosis; a cluster, node, pod, private endpoint, registry or private DNS zone has", ErrNotFound, id.Type())
}

func (d *Diagnoser) look(ctx context.Context) (*world, error) {
	s, err := d.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	return &world{docs: documents.New(s.Documents), state: s.State, machine: d.Machine, faults: s.Faults}, nil
}
