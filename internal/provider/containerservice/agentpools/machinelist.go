package agentpools

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// Endpoints are the paths below a pool that have no documents: its machines.
//
// https://learn.microsoft.com/rest/api/aks/machines
func Endpoints() []resourcetype.Definition {
	return []resourcetype.Definition{
		resourcetype.DefineEndpoint(resourcetype.Endpoint{Name: Name + "/machines", Get: machines}),
	}
}

type object = map[string]any

// machines answers with a pool's machines, or with one of them.
func machines(ctx context.Context, r *resourcetype.EndpointRequest) (any, error) {
	if len(r.Names) < 2 {
		return nil, armerror.New(armerror.NotFound, "The path names no agent pool.")
	}
	clusterID := r.Scope.Resource("Microsoft.ContainerService/managedClusters", r.Names[0])
	pool := clusterID.Child("agentPools", r.Names[1])
	notFound := func(what string) error {
		return armerror.New(armerror.ResourceNotFound, "The Resource 'Microsoft.ContainerService/managedClusters/%s/agentPools/%s' under resource group '%s' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix", clusterID.Name(), what, pool.ResourceGroup())
	}
	var m Model
	if err := r.Documents.Get(ctx, pool, &m); errors.Is(err, resourcestore.ErrNotFound) {
		return nil, notFound(pool.Name())
	} else if err != nil {
		return nil, fmt.Errorf("read %s: %w", pool, err)
	}
	var c cluster
	if err := r.Documents.Get(ctx, clusterID, &c); err != nil {
		return nil, fmt.Errorf("read %s: %w", clusterID, err)
	}
	list := []object{}
	if m.Memory != nil {
		for _, machine := range m.Memory.Machines {
			o, err := describeMachine(ctx, r.Documents, pool, c, machine)
			if err != nil {
				return nil, err
			}
			if len(r.Names) == 3 && strings.EqualFold(r.Names[2], machine.Name) {
				return o, nil
			}
			list = append(list, o)
		}
	}
	if len(r.Names) == 3 {
		return nil, notFound(pool.Name() + "/machines/" + r.Names[2])
	}
	return object{"value": list}, nil
}

func describeMachine(ctx context.Context, docs resourcetype.Reader, pool resourceid.ID, c cluster, m Machine) (object, error) {
	addresses := []object{}
	var doc nic
	switch err := docs.Get(ctx, resourceid.MustParse(m.NIC), &doc); {
	case errors.Is(err, resourcestore.ErrNotFound): // not made yet
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", m.NIC, err)
	default:
		if all := doc.addresses(); len(all) > 0 { // the others are its pods'
			addresses = append(addresses, object{"family": "IPv4", "ip": all[0].String()})
		}
	}
	scaleSet := m.Name[:strings.LastIndex(m.Name, "vmss")+len("vmss")]
	return object{
		"id": pool.String() + "/machines/" + m.Name, "name": m.Name, "type": Name + "/machines",
		"properties": object{
			"network": object{"ipAddresses": addresses},
			"resourceId": fmt.Sprintf("/subscriptions/%s/resourceGroups/%s/providers/Microsoft.Compute/virtualMachineScaleSets/%s/virtualMachines/%s",
				pool.Subscription(), c.Properties.NodeResourceGroup, scaleSet, instanceNumber(m.Name)),
		},
	}, nil
}
