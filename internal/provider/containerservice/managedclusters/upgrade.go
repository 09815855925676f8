package managedclusters

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// targetVersion is what the control plane is to run. A minor version alone, 1.30, is satisfied by any patch of it.
func (t service) targetVersion(p Properties) string {
	if have := p.CurrentKubernetesVersion; have == p.KubernetesVersion || strings.HasPrefix(have, p.KubernetesVersion+".") {
		return have
	}
	return t.resolveVersion(p.KubernetesVersion)
}

// announce shows that an upgrade is under way.
func (t service) announce(ctx context.Context, r *resourcetype.Reconciliation[Model]) error {
	p := &r.Model.Properties
	if t.targetVersion(*p) == p.CurrentKubernetesVersion || p.ProvisioningState == "Creating" {
		return nil
	}
	p.ProvisioningState = "Upgrading"
	return r.Save(ctx)
}

// validateUpgrade holds a change of versions against AKS's rules: no minor version is skipped, none goes back, and the
// pools inline are left as they are or go with the control plane.
func (t service) validateUpgrade(ctx context.Context, r *resourcetype.Request[Model]) error {
	p, was := r.Model.Properties, r.Existing.Properties
	have, want := t.targetVersion(was), t.targetVersion(p) // what an upgrade that failed has begun is begun
	if want != have && !slices.Contains(t.upgrades(have), want) {
		return armerror.New(armerror.OperationNotAllowed, "Upgrading Kubernetes version %s to %s is not allowed. Available upgrades: [%s]. Please see https://aka.ms/aks-supported-k8s-ver for version details.",
			have, want, strings.Join(t.upgrades(have), " ")).WithTarget("properties.kubernetesVersion")
	}
	specified := 0
	for _, profile := range p.AgentPoolProfiles {
		version, _ := profile["orchestratorVersion"].(string)
		if version == "" {
			continue
		}
		specified++
		name, _ := profile["name"].(string)
		id, err := resourceid.Parse(r.ID.String() + "/agentPools/" + name)
		if err != nil {
			continue // the name's own error comes later
		}
		var pool struct {
			Properties struct {
				OrchestratorVersion        string `json:"orchestratorVersion"`
				CurrentOrchestratorVersion string `json:"currentOrchestratorVersion"`
			} `json:"properties"`
		}
		err = r.Documents.Get(ctx, id, &pool)
		if errors.Is(err, resourcestore.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		q := pool.Properties
		if version != q.OrchestratorVersion && version != q.CurrentOrchestratorVersion && version != p.KubernetesVersion && version != want {
			return notAllPools()
		}
	}
	if specified != 0 && specified != len(p.AgentPoolProfiles) {
		return notAllPools()
	}
	return nil
}

func notAllPools() error {
	return armerror.New("NotAllAgentPoolOrchestratorVersionSpecifiedAndUnchanged",
		"Using managed cluster api, all Agent pools' OrchestratorVersion must be all specified or all unspecified. If all specified, they must be stay unchanged or the same with control plane. For agent pool specific change, please use per agent pool operations: https://aka.ms/agent-pool-rest-api").
		WithTarget("properties.agentPoolProfiles")
}
