// Package projection computes, from all ARM documents, the whole desired state of the engines: the fabric,
// the registries, and the services inside virtual networks. It is a pure function: what is on the
// machine follows from the documents and from nothing else, and a change of code changes it for all.
//
// What the documents need not say is derived from their IDs: a VNet's namespace.
package projection

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cloister-dev/cloister/internal/app/documents"
	"github.com/cloister-dev/cloister/internal/app/vnetservices"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/engine/fabric"
	"github.com/cloister-dev/cloister/internal/engine/registry"
	"github.com/cloister-dev/cloister/internal/lib/layout"
)

// Names of the leaf namespaces of the installation's own services.
const (
	LeafRegistry = "registry"
	LeafServices = "services"
)

// Addresses in `public`.
var (
	AddressMCR        = netip.MustParseAddr("198.18.0.10")
	AddressManagement = netip.MustParseAddr("198.18.0.11")
	AddressLogin      = netip.MustParseAddr("198.18.0.12")
	AddressGraph      = netip.MustParseAddr("198.18.0.13")
	AddressExtensions = netip.MustParseAddr("198.18.0.14") // of the Azure CLI
	AddressRegistries = netip.MustParseAddr("198.18.0.20")
	AddressDNS        = netip.MustParseAddr("198.18.0.53")
)

// uidCount is the length of a node's id range (agentpools.UIDCount).
const uidCount = 1 << 24

// Input is all that the desired state follows from.
type Input struct {
	Layout    layout.Layout
	Documents []resourcestore.Resource
	Sessions  []Session
	// Access tells what principals may do in a registry (registry.Config), from the role assignments.
	Access func(id resourceid.ID) map[string][]string
	// Password is a password of a registry's admin user (registries.Deps).
	Password func(id resourceid.ID, created string, slot, generation int) string
	// Registry and Services are completed: what is in them already does not depend on documents.
	Registry registry.Config
	Services vnetservices.Config
	TenantID string
	// ExtensionHosts are the public names where the Azure CLI looks for extensions.
	ExtensionHosts []string
}

// Session is a jump box or a workstation. It lives as long as somebody uses it and is no resource.
type Session struct {
	Name    string        // of its network namespace
	Network resourceid.ID // the virtual network of a jump box; zero for a workstation
	Address netip.Addr
	Subnet  string
	// Interface is a network interface that the jump box is to be behind, with what its document says; zero for one of its own.
	Interface resourceid.ID
	// Identities are the user-assigned identities of a jump box, as a virtual machine has them.
	Identities []resourceid.ID
}

// State is the whole desired state.
type State struct {
	Fabric   fabric.Config
	Registry registry.Config
	Services vnetservices.Config
}

// builder is one run of Project.
type builder struct {
	in        Input
	docs      documents.Index
	out       State
	leaves    map[string][]netip.Addr
	networks  map[string]*fabric.Network // by the virtual network's key
	endpoints map[string][]registry.Endpoint
	machines  map[string]owner      // by the NIC's key
	claimed   map[netip.Addr]string // public IP addresses, with the ID of the network in the fabric that each leads to
}

type owner struct {
	machine machine
	pool    resourcestore.Resource
	vmSize  string
	cluster resourcestore.Resource
}

// Project computes the desired state. A document that cannot be read is an error: half a state would
// take away what others stand on.
func Project(in Input) (State, error) {
	b := &builder{
		in: in, docs: documents.New(present(in.Documents)), leaves: map[string][]netip.Addr{LeafRegistry: nil, LeafServices: nil},
		networks:  map[string]*fabric.Network{},
		endpoints: map[string][]registry.Endpoint{}, machines: map[string]owner{},
		claimed: map[netip.Addr]string{},
	}
	b.out.Registry, b.out.Services = in.Registry, in.Services
	for _, step := range []func() error{b.virtualNetworks, b.owners, b.interfaces, b.apiServers, b.privateEndpoints, b.sessions, b.registries, b.names, b.clusters} {
		if err := step(); err != nil {
			return State{}, err
		}
	}
	slices.SortFunc(b.out.Services.Public, func(a, c vnetservices.Record) int {
		return compare(a.Name+a.Type+a.Value, c.Name+c.Type+c.Value)
	})
	for name, addresses := range b.leaves {
		b.out.Fabric.Leaves = append(b.out.Fabric.Leaves, fabric.Leaf{Name: name, Addresses: addresses})
	}
	slices.SortFunc(b.out.Fabric.Fronts, func(a, c fabric.Front) int { return compare(a.ID, c.ID) })
	slices.SortFunc(b.out.Fabric.Leaves, func(a, c fabric.Leaf) int { return compare(a.Name, c.Name) })
	for _, n := range b.networks {
		b.out.Fabric.Networks = append(b.out.Fabric.Networks, *n)
	}
	slices.SortFunc(b.out.Fabric.Networks, func(a, c fabric.Network) int { return compare(a.ID, c.ID) })
	return b.out, nil
}

// NetworkID is the short name of a virtual network on this machine.
func NetworkID(id resourceid.ID) string { return shortHash(id.Key()) }

// LeafOfCluster is the namespace of a cluster's control plane.
func LeafOfCluster(clusterID string) string { return "cp-" + clusterID }

func shortHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:4])
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// serviceAddress stands for one member of a private endpoint on the service's side, by the number the
// member was given: 240.0.0.0 and on.
func serviceAddress(index int) netip.Addr {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], 240<<24+uint32(index))
	return netip.AddrFrom4(a)
}

// owners finds the machine that each network interface is of.
func (b *builder) owners() error {
	for _, pool := range b.docs.Of("Microsoft.ContainerService/managedClusters/agentPools") {
		doc, err := documents.Decode[agentPool](pool)
		if err != nil {
			return err
		}
		clusterID, _ := pool.ID.Parent()
		cluster, _ := b.docs.Find(clusterID)
		for _, m := range doc.Memory.Machines {
			b.machines[m.NIC.Key()] = owner{m, pool, doc.Properties.VMSize, cluster}
		}
	}
	return nil
}

func parseAddr(s string, of resourceid.ID) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return a, fmt.Errorf("read document %s: %w", of, err)
	}
	return a, nil
}

// parsePrefix reads a prefix, or an address that stands for itself.
func parsePrefix(s string, of resourceid.ID) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("read document %s: %w", of, err)
	}
	return p.Masked(), nil
}
