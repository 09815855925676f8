package managedclusters

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// A stopped cluster keeps its documents, its addresses and what its API server has stored, and runs nothing: neither
// control plane nor nodes, whose disks go (https://learn.microsoft.com/azure/aks/start-stop-cluster).

// Values of Memory.Power, and codes of the power state.
const (
	powerRunning  = "Running"
	powerStopping = "Stopping"
	powerStopped  = "Stopped"
	powerStarting = "Starting"
)

// mustRun refuses what a stopped cluster cannot do, in Azure's words.
func (m *Model) mustRun(action string) error {
	if m.Memory == nil || m.Memory.Power != powerStopped {
		return nil
	}
	return m.wrongPower(action)
}

func (m *Model) wrongPower(action string) error {
	code := powerRunning
	if m.Properties.PowerState != nil {
		code = m.Properties.PowerState.Code
	}
	return armerror.New(armerror.OperationNotAllowed, "managed cluster is in Provisioning State(%s) and Power State(%s), %s cannot be performed", m.Properties.ProvisioningState, code, action)
}

// stop answers POST stop.
func (t service) stop(_ context.Context, r *resourcetype.ActionRequest[Model]) (any, error) {
	m := r.Model
	// One that failed to stop can be told again to.
	if m.Memory == nil || m.Memory.Power == powerStopped || !m.Memory.Infrastructure {
		return nil, m.wrongPower("stopping")
	}
	m.Memory.Power = powerStopping
	m.Properties.ProvisioningState = powerStopping
	return nil, nil
}

// start answers POST start.
func (t service) start(_ context.Context, r *resourcetype.ActionRequest[Model]) (any, error) {
	m := r.Model
	if m.Memory == nil || m.Memory.Power == "" {
		return nil, m.wrongPower("starting")
	}
	m.Memory.Power = powerStarting
	m.Properties.ProvisioningState = powerStarting
	return nil, nil
}

// power does what a stop takes, and reports whether that is all there is to do.
func (t service) power(ctx context.Context, r *resourcetype.Reconciliation[Model]) (done bool, result resourcetype.Result, err error) {
	m := r.Model
	switch m.Memory.Power {
	case powerStopped:
		return true, result, nil
	case powerStopping:
	default:
		return false, result, nil
	}
	r.Step("agent pools stop")
	off, err := t.switchPools(ctx, r, powerStopped)
	if err != nil || !off {
		return true, resourcetype.Result{Waiting: true}, err
	}
	r.Step("control plane stops")
	if err := t.ControlPlane.Stop(ctx, m.Memory.ClusterID); err != nil {
		return true, result, fmt.Errorf("stop the control plane: %w", err)
	}
	m.Memory.Power = powerStopped
	m.Memory.Declared = "" // a start completes the control plane again
	m.Properties.PowerState = &PowerState{Code: powerStopped}
	return true, result, nil
}

// switchPools puts the power state of the cluster's pools; those that their user had stopped stay so. It reports
// whether all of them have it.
func (t service) switchPools(ctx context.Context, r *resourcetype.Reconciliation[Model], code string) (done bool, err error) {
	pools, err := r.Client.List(ctx, r.ID, poolType)
	if err != nil {
		return false, err
	}
	mem := r.Model.Memory
	done = true
	bodies := map[int]map[string]any{}
	for i, p := range pools {
		var doc map[string]any
		if err := json.Unmarshal(p.Body, &doc); err != nil {
			return false, fmt.Errorf("read %s: %w", p.ID, err)
		}
		properties, _ := doc["properties"].(map[string]any)
		if properties == nil {
			continue
		}
		power, _ := properties["powerState"].(map[string]any)
		stopped := power["code"] == powerStopped
		switch {
		case code == powerStopped && !stopped && !slices.Contains(mem.StoppedPools, p.ID.Name()):
			mem.StoppedPools = append(mem.StoppedPools, p.ID.Name())
		case code == powerRunning && stopped && !slices.Contains(mem.StoppedPools, p.ID.Name()):
			continue
		}
		properties["powerState"] = map[string]any{"code": code}
		bodies[i] = doc
	}
	if err := r.Save(ctx); err != nil { // which pools ran, before one of them is stopped
		return false, err
	}
	for i, p := range pools {
		body, changes := bodies[i]
		if !changes {
			continue
		}
		state, err := r.Client.Put(ctx, p.ID, poolAPI, body)
		if err != nil {
			return false, err
		}
		switch state {
		case "Succeeded":
		case "Failed":
			var v poolView
			if err := r.Client.Get(ctx, p.ID, &v); err != nil {
				return false, err
			}
			if v.Memory.Fault != nil {
				return false, v.Memory.Fault
			}
			return false, armerror.New("ReconcileAgentPoolFailed", "Agent pool %s is in state Failed.", v.Name)
		default:
			done = false
		}
	}
	return done, nil
}
