package agentpools

import (
	"context"
	"encoding/json"
	"net/http"

	"golang.org/x/sync/errgroup"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// Codes of a power state.
const (
	powerRunning = "Running"
	powerStopped = "Stopped"
)

func (m *Model) stopped() bool {
	return m.Properties.PowerState != nil && m.Properties.PowerState.Code == powerStopped
}

// stop ends the pool's machines and keeps what is written down of them: names, addresses and model. Their disks go;
// a start makes new nodes of the same names, as Azure's stopped nodes come back without their pods' data.
func (t service) stop(ctx context.Context, r *resourcetype.Reconciliation[Model], c cluster) error {
	mem := r.Model.Memory
	if mem.Off {
		return nil
	}
	r.Model.Properties.ProvisioningState = "Stopping"
	if err := r.Save(ctx); err != nil {
		return err
	}
	r.Step("nodes of " + r.ID.Name() + " stop")
	g, gctx := errgroup.WithContext(ctx)
	for _, m := range mem.Machines {
		g.Go(func() error {
			if c.Memory.Power == powerStopping { // all nodes go: there is nowhere to evict to
				if err := t.ControlPlane.DeleteNode(gctx, c.Memory.ClusterID, m.Name); err != nil {
					return err
				}
			} else if err := t.leave(gctx, r.Model.Properties, c, m); err != nil {
				return err
			}
			return t.Nodes.Remove(gctx, m.ID)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	mem.Off = true
	return nil
}

// powerStopping is what a cluster remembers of itself while it stops.
const powerStopping = "Stopping"

// mayAct refuses actions on a pool whose cluster, or which itself, is stopped or being changed.
func (t service) mayAct(ctx context.Context, r *resourcetype.ActionRequest[Model], action string) error {
	clusterID, _ := r.ID.Parent()
	var c cluster
	if err := r.Documents.Get(ctx, clusterID, &c); err != nil {
		return err
	}
	if err := c.mustRun(action); err != nil {
		return err
	}
	if r.Model.stopped() {
		return armerror.New(armerror.OperationNotAllowed, "The agent pool %s is in Power State(%s), %s cannot be performed", r.ID.Name(), powerStopped, action)
	}
	switch s := c.Properties.ProvisioningState; s {
	case "Succeeded", "Failed", "Canceled":
	default:
		return armerror.New(armerror.OperationNotAllowed, "Operation is not allowed because there's an in progress operation on the managedClusters %s, which is in state %s.", clusterID.Name(), s).WithStatus(http.StatusConflict)
	}
	if r.Model.Memory == nil {
		r.Model.Memory = &Memory{}
	}
	return nil
}

// mustRun refuses what a stopped cluster cannot do.
func (c cluster) mustRun(action string) error {
	if c.Memory.Power != powerStopped {
		return nil
	}
	return armerror.New(armerror.OperationNotAllowed, "managed cluster is in Provisioning State(%s) and Power State(%s), %s cannot be performed", c.Properties.ProvisioningState, powerStopped, action)
}

// decode reads an action's body.
func decode(body json.RawMessage, into any) error {
	if err := json.Unmarshal(body, into); err != nil {
		return armerror.New(armerror.InvalidParameter, "The request body is not valid: %v", err)
	}
	return nil
}
