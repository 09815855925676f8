package networkinterfaces

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/provider/network/egressuse"
)

// egress finds what is wrong with the interface's public IP addresses and backend pools.
func egress(ctx context.Context, r *resourcetype.Request[Model]) ([]*armerror.Error, error) {
	var named []egressuse.Named
	for i, c := range r.Model.Properties.IPConfigurations {
		if a := c.Properties.PublicIPAddress; a != nil {
			named = append(named, egressuse.Named{Property: fmt.Sprintf("properties.ipConfigurations[%d].properties.publicIPAddress.id", i), ID: a.ID})
		}
	}
	problems, err := egressuse.CheckPublicIPs(ctx, r.Documents, r.ID, r.Model.Location, named)
	if err != nil {
		return nil, err
	}
	for i, c := range r.Model.Properties.IPConfigurations {
		for j, p := range c.Properties.LoadBalancerBackendAddressPools {
			id, err := resourceid.Parse(p.ID)
			if err != nil || !id.Is(egressuse.BackendPools) {
				continue // found by validate
			}
			there, err := hasPool(ctx, r.Documents, id)
			if err != nil {
				return nil, err
			}
			if !there {
				problems = append(problems, armerror.New(armerror.InvalidResourceReference, "Resource %s referenced by resource %s was not found. Please make sure that the referenced resource exists, and that both resources are in the same region.", id, r.ID).
					WithTarget(fmt.Sprintf("properties.ipConfigurations[%d].properties.loadBalancerBackendAddressPools[%d].id", i, j)))
			}
		}
	}
	return problems, nil
}

// hasPool looks for a backend pool in its load balancer's document.
func hasPool(ctx context.Context, docs resourcetype.Reader, pool resourceid.ID) (bool, error) {
	balancer, _ := pool.Parent()
	var doc struct {
		Properties struct {
			BackendAddressPools []struct {
				Name string `json:"name"`
			} `json:"backendAddressPools"`
		} `json:"properties"`
	}
	if err := docs.Get(ctx, balancer, &doc); err != nil {
		if errors.Is(err, resourcestore.ErrNotFound) {
			return false, nil
		}
		return false, fmt.Errorf("read %s: %w", balancer, err)
	}
	for _, p := range doc.Properties.BackendAddressPools {
		if strings.EqualFold(p.Name, pool.Name()) {
			return true, nil
		}
	}
	return false, nil
}

// forgetPools leaves out of the answer what went with its load balancer.
func forgetPools(ctx context.Context, v *resourcetype.View[Model]) error {
	for i := range v.Model.Properties.IPConfigurations {
		q := &v.Model.Properties.IPConfigurations[i].Properties
		var there []SubResource
		for _, p := range q.LoadBalancerBackendAddressPools {
			id, err := resourceid.Parse(p.ID)
			if err != nil {
				continue
			}
			has, err := hasPool(ctx, v.Documents, id)
			if err != nil {
				return err
			}
			if has {
				there = append(there, p)
			}
		}
		q.LoadBalancerBackendAddressPools = there
	}
	return nil
}
