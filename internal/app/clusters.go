package app

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/cloister-dev/cloister/internal/app/projection"
	"github.com/cloister-dev/cloister/internal/engine/controlplane"
	"github.com/cloister-dev/cloister/internal/engine/controlplane/runcommand"
	"github.com/cloister-dev/cloister/internal/lib/atomicfile"
	"github.com/cloister-dev/cloister/internal/lib/layout"
	"github.com/cloister-dev/cloister/internal/provider/containerservice/managedclusters"
)

// clusters is what the providers of Microsoft.ContainerService need of the control plane engine.
type clusters struct {
	layout layout.Layout
	engine *controlplane.Engine
	// commands are those that users run in clusters.
	commands *runcommand.Runner
	// leaf is the service-side address of a cluster's API server.
	leaf func(name string) (netip.Addr, bool)
}

// Start implements managedclusters.ControlPlane.
func (c *clusters) Start(ctx context.Context, m managedclusters.Cluster) error {
	service, ok := c.leaf(projection.LeafOfCluster(m.ID))
	if !ok && !m.Direct {
		return fmt.Errorf("the API server of cluster %s has neither a private endpoint nor a public address yet", m.ID)
	}
	config := controlplane.Config{
		ID: m.ID, KubernetesVersion: m.KubernetesVersion, ServiceAddress: service, EndpointAddress: m.EndpointAddress, Direct: m.Direct, FQDN: m.FQDN, PrivateFQDN: m.PrivateFQDN,
		ServiceCIDR: m.ServiceCIDR, DNSServiceIP: m.DNSServiceIP, PodCIDRs: m.PodCIDRs, Nodes: m.Nodes,
	}
	if m.PublicAddress.IsValid() {
		config.Addresses = []netip.Addr{m.PublicAddress}
	}
	if err := c.engine.Start(ctx, config); err != nil {
		return err
	}
	approver, err := os.ReadFile(c.engine.ApproverKubeconfig(m.ID))
	if err != nil {
		return fmt.Errorf("the approver's kubeconfig: %w", err)
	}
	return atomicfile.Write(c.layout.Approver(m.ID), approver, 0o600)
}

// Ready implements managedclusters.ControlPlane.
func (c *clusters) Ready(ctx context.Context, id string) error {
	return c.engine.Apply(ctx, id)
}

// Remove implements managedclusters.ControlPlane.
func (c *clusters) Remove(ctx context.Context, id string) error {
	c.commands.Forget(id)
	if err := os.Remove(c.layout.Approver(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return c.engine.Remove(ctx, id)
}

// Kubeconfig implements managedclusters.ControlPlane. The names are those that az's users know.
func (c *clusters) Kubeconfig(_ context.Context, id, server, group, name string, admin bool) ([]byte, error) {
	if admin {
		return c.engine.AdminKubeconfig(id, server, controlplane.Names{Cluster: name, User: "clusterAdmin_" + group + "_" + name, Context: name + "-admin"})
	}
	return c.engine.UserKubeconfig(id, server, controlplane.Names{Cluster: name, User: "clusterUser_" + group + "_" + name, Context: name})
}

// Join implements agentpools.ControlPlane.
func (c *clusters) Join(_ context.Context, id string) (ca, token string, err error) {
	pem, err := c.engine.CertificateAuthority(id)
	if err != nil {
		return "", "", err
	}
	token, err = c.engine.BootstrapToken(id)
	return string(pem), token, err
}

// Stop implements managedclusters.ControlPlane.
func (c *clusters) Stop(ctx context.Context, id string) error {
	if err := os.Remove(c.layout.Approver(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return c.engine.Stop(ctx, id)
}

// NodesReady implements agentpools.ControlPlane.
func (c *clusters) NodesReady(ctx context.Context, id string, names []string) error {
	if err := c.engine.WaitReady(ctx, id); err != nil {
		return err
	}
	var missing []string
	err := c.engine.Watch(ctx, id, func(s controlplane.State) bool {
		missing = missing[:0]
		for _, name := range names {
			i := slices.IndexFunc(s.Nodes, func(n controlplane.Node) bool { return n.Name == name })
			if i < 0 || !s.Nodes[i].Ready {
				missing = append(missing, name)
			}
		}
		return len(missing) == 0
	})
	if err != nil {
		return fmt.Errorf("nodes %s are not Ready: %w", strings.Join(missing, ", "), err)
	}
	// Now that there is more than one node to choose from, where there is to be.
	return c.engine.ApplyWorkloads(ctx, id)
}

// SystemReady implements managedclusters.ControlPlane.
func (c *clusters) SystemReady(ctx context.Context, id string) error {
	var missing string
	err := c.engine.Watch(ctx, id, func(s controlplane.State) (ok bool) {
		var nodes []string
		for _, n := range s.Nodes {
			nodes = append(nodes, n.Name)
		}
		missing, ok = s.Ready(nodes)
		return ok
	})
	if err != nil && missing != "" {
		return fmt.Errorf("%w: %s", err, missing)
	}
	return err
}

// ChangeNode implements agentpools.ControlPlane.
func (c *clusters) ChangeNode(ctx context.Context, id, name string, change controlplane.NodeChange) error {
	return c.engine.ChangeNode(ctx, id, name, change)
}

// Drain implements agentpools.ControlPlane.
func (c *clusters) Drain(ctx context.Context, id, name string, timeout time.Duration) error {
	return unlessNone(c.engine.Drain(ctx, id, name, timeout))
}

// DeleteNode implements agentpools.ControlPlane.
func (c *clusters) DeleteNode(ctx context.Context, id, name string) error {
	return unlessNone(c.engine.DeleteNode(ctx, id, name))
}

// unlessNone leaves out that a cluster never had a control plane.
func unlessNone(err error) error {
	if errors.Is(err, controlplane.ErrNotFound) {
		return nil
	}
	return err
}
