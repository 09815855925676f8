package agentpools

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// azureReserves is how many addresses of every subnet Azure keeps: its first four and its last.
const azureReserves = 5

// needs is how many addresses a pool takes: one for each node, and one for each pod that a node may run.
func (p Properties) needs() int {
	if p.Count == nil {
		return 0
	}
	return *p.Count * (p.MaxPods + 1)
}

// validateSize refuses nodes that do not fit the subnet with the other pools of their cluster. Who else has addresses
// there shows when the nodes are made (SubnetIsFull), as on Azure.
func validateSize(ctx context.Context, r *resourcetype.Request[Model], c cluster) error {
	p := r.Model.Properties
	if r.Existing != nil && p.needs() <= r.Existing.Properties.needs() {
		return nil
	}
	if p.VnetSubnetID == "" && c.Memory.SubnetID == "" {
		return nil // in a VNet that AKS has yet to make, which is large
	}
	subnet := subnetOf(p, c)
	prefix, err := subnetPrefix(ctx, r.Documents, subnet)
	if errors.Is(err, resourcestore.ErrNotFound) {
		return nil // of a cluster that has lost it; to make nodes says so
	} else if err != nil {
		return err
	}
	clusterID, _ := r.ID.Parent()
	pools, err := r.Documents.List(ctx, clusterID, Name)
	if err != nil {
		return fmt.Errorf("list the agent pools of %s: %w", clusterID, err)
	}
	needed := p.needs()
	for _, other := range pools {
		var m Model
		if other.ID.Equal(r.ID) || other.Deleting {
			continue
		}
		if err := json.Unmarshal(other.Body, &m); err != nil {
			return fmt.Errorf("read %s: %w", other.ID, err)
		}
		if of, err := resourceid.Parse(m.Properties.VnetSubnetID); err == nil && of.Equal(subnet) || m.Properties.VnetSubnetID == "" && strings.EqualFold(c.Memory.SubnetID, subnet.String()) {
			needed += m.Properties.needs()
		}
	}
	if has := 1<<(32-prefix.Bits()) - azureReserves; needed > has {
		return armerror.New("InsufficientSubnetSize", "Pre-allocated IPs %d exceeds IPs available %d in Subnet Cidr %s, Subnet Name %s. If Autoscaler is enabled, the max-count from each nodepool is counted towards this total (which means that pre-allocated IPs count represents a theoretical max value, not the actual number of IPs requested). http://aka.ms/aks/insufficientsubnetsize",
			needed, has, prefix, subnet.Name()).WithTarget("agentPoolProfile.count")
	}
	return nil
}
