package vnetservices

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/cloister-dev/cloister/internal/engine/controlplane/approver"
	"github.com/cloister-dev/cloister/internal/engine/identity/metadata"
	"github.com/cloister-dev/cloister/internal/engine/privatedns"
)

// Config is everything the process serves, in the file layout.State("vnetservices").
type Config struct {
	Authority Authority
	Public    []Record // what names resolve to outside any linked zone
	Networks  []Network
	Clusters  []Cluster
}

// Authority is where tokens for managed identities come from.
type Authority struct {
	Keys string // directory of the signing keys, layout.Identity()
}

// Network is a virtual network.
type Network struct {
	ID     string
	NetNS  string // path
	Zones  []Zone // linked to it
	Guests []Guest
}

// What the engines take, under the names that belong to this file.
type (
	// Zone is a private DNS zone.
	Zone = privatedns.Zone
	// Record is one of its records.
	Record = privatedns.Record
	// Guest is a virtual machine, as its metadata says.
	Guest = metadata.Guest
	// Identity is a managed identity of a guest.
	Identity = metadata.Identity
	// ClusterNode is a node that may have a serving certificate.
	ClusterNode = approver.Node
)

// Cluster is a hosted control plane.
type Cluster struct {
	ID string

	// The API server's tunnel to its nodes; none where TunnelSocket is empty.
	TunnelSocket   string
	NetworkNetNS   string // path of the namespace that the tunnel dials in
	TunnelPrefixes []netip.Prefix

	// The approver of serving certificates; none where Server is empty.
	ControlPlaneNetNS string // path of the API server's namespace
	Server            string // IP address and port in it
	Kubeconfig        string // path; its server's name is what the certificate is checked against
	Nodes             []ClusterNode
}

// load reads the file. Its absence is an empty Config: nothing has been asked for yet.
func load(path string) (Config, error) {
	var c Config
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("read the desired state: %w", err)
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("read the desired state from %s: %w", path, err)
	}
	return c, c.check()
}

// check refuses what could not be told apart.
func (c Config) check() error {
	seen := map[string]bool{}
	for _, n := range c.Networks {
		if n.ID == "" || n.NetNS == "" || seen["network "+n.ID] {
			return fmt.Errorf("desired state: network %q is nameless, without a namespace or there twice", n.ID)
		}
		seen["network "+n.ID] = true
	}
	for _, k := range c.Clusters {
		if k.ID == "" || seen["cluster "+k.ID] {
			return fmt.Errorf("desired state: cluster %q is nameless or there twice", k.ID)
		}
		seen["cluster "+k.ID] = true
	}
	return nil
}
