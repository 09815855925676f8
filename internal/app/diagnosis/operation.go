package diagnosis

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/cloister-dev/cloister/internal/app/documents"
	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// nodeFault is the code of a failure that nodes had; what caused it the other links tell.
const nodeFault = "VMExtensionProvisioningError"

// Faults finds the errors of the last operations on clusters, where they failed.
func Faults(ctx context.Context, store resourcestore.Store, all []resourcestore.Resource) (map[string]*armerror.Error, error) {
	out := map[string]*armerror.Error{}
	for _, r := range all {
		if !r.ID.Is(clusterType) || resourcetype.State(r.Body) != "Failed" {
			continue
		}
		operations, err := store.Operations(ctx, r.ID, false)
		if err != nil {
			return nil, fmt.Errorf("list the operations on %s: %w", r.ID, err)
		}
		var fault *armerror.Error
		for _, o := range operations {
			if !o.Writes() || o.Status == resourcestore.InProgress {
				continue
			}
			fault = nil
			if e := new(armerror.Error); len(o.Error) > 0 && json.Unmarshal(o.Error, e) == nil {
				fault = e
			}
		}
		if fault != nil {
			out[r.ID.Key()] = fault
		}
	}
	return out, nil
}

// operation tells of an operation that failed before its nodes did. It returns false where the nodes' own chain is to be followed.
func (w *world) operation(c *chain, of *cluster) bool {
	fault, failed := w.faults[of.id.Key()]
	if !failed || fault.Code == nodeFault {
		return false
	}
	var mend []string
	switch fault.Code {
	case "CreateOrUpdateVirtualNetworkLinkFailed":
		mend = w.unlinkOthers(of)
	case "SubnetIsFull":
		mend = w.freeAddresses(of)
	}
	c.broken(linkOperation, of.id.String(), mend, "%s: %s", fault.Code, fault.Message)
	return true
}

// unlinkOthers takes away the links of the cluster's VNet to zones that have the names of zones of AKS's own: a VNet sees
// one zone of a name.
func (w *world) unlinkOthers(of *cluster) (mend []string) {
	for _, own := range w.docs.Under(of.nodeGroup(), zoneType) {
		for _, other := range w.docs.Of(zoneType) {
			if other.ID.Equal(own.ID) || !strings.EqualFold(other.ID.Name(), own.ID.Name()) {
				continue
			}
			for _, l := range w.docs.Under(other.ID, zoneLinkType) {
				var link struct {
					Properties struct{ VirtualNetwork documents.Ref }
				}
				if w.docs.Read(l.ID, &link) && link.Properties.VirtualNetwork.ID.Equal(of.vnet()) {
					mend = append(mend, az("network", "private-dns", "link", "vnet", "delete", "-g", other.ID.ResourceGroup(), "--zone-name", other.ID.Name(), "-n", l.ID.Name(), "--yes"))
				}
			}
		}
	}
	return mend
}

// freeAddresses deletes network interfaces of the nodes' subnets that nothing is behind.
func (w *world) freeAddresses(of *cluster) (mend []string) {
	subnets := w.subnets(of)
	for _, r := range w.docs.Of(nicType) {
		var nic struct {
			ManagedBy  string
			Properties struct {
				VirtualMachine, PrivateEndpoint *documents.Ref
				IPConfigurations                []struct {
					Properties struct{ Subnet documents.Ref }
				}
			}
		}
		if !w.docs.Read(r.ID, &nic) || nic.ManagedBy != "" || nic.Properties.VirtualMachine != nil || nic.Properties.PrivateEndpoint != nil || w.isNode(r.ID) {
			continue
		}
		for _, c := range nic.Properties.IPConfigurations {
			if slices.ContainsFunc(subnets, c.Properties.Subnet.ID.Equal) {
				mend = append(mend, az("network", "nic", "delete", "-g", r.ID.ResourceGroup(), "-n", r.ID.Name()))
				break
			}
		}
	}
	return mend
}

// isNode reports whether a node of some cluster is behind the network interface.
func (w *world) isNode(nic resourceid.ID) bool {
	for _, r := range w.docs.Of(clusterType) {
		c, err := w.cluster(r.ID)
		if err == nil && slices.ContainsFunc(c.machines, func(m machine) bool { return m.NIC.Equal(nic) }) {
			return true
		}
	}
	return false
}
