package agentpools

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// maxSkew is how many minor versions a kubelet may be behind its API server
// (https://kubernetes.io/releases/version-skew-policy).
const maxSkew = 3

// resolve is the version that an asked one stands for: 1.30 is what runs already if that is a 1.30, otherwise
// its newest patch.
func (t service) resolve(asked, running string) string {
	if asked == "" || asked == running || strings.HasPrefix(running, asked+".") {
		return running
	}
	for _, v := range slices.Backward(t.Versions) {
		if v == asked || strings.HasPrefix(v, asked+".") {
			return v
		}
	}
	return asked
}

// target is the version that the pool's nodes are to have.
func (t service) target(p Properties, c cluster) string {
	return t.resolve(p.OrchestratorVersion, or(p.CurrentOrchestratorVersion, c.Properties.CurrentKubernetesVersion))
}

// version of a cluster is the one that it is to have, which may be newer than the one it has.
func (t service) version(c cluster) string {
	return t.resolve(c.Properties.KubernetesVersion, c.Properties.CurrentKubernetesVersion)
}

func numbers(version string) (n [3]int) {
	for i, s := range strings.SplitN(version, ".", 3) {
		n[i], _ = strconv.Atoi(s)
	}
	return n
}

// newer reports whether a is a later version than b.
func newer(a, b string) bool {
	x, y := numbers(a), numbers(b)
	return slices.Compare(x[:], y[:]) > 0
}

// validateVersion holds the version that the pool is to have against its cluster's, and against the one that it has.
func (t service) validateVersion(name string, p Properties, have string, mem *Memory, c cluster) error {
	want, plane := t.target(p, c), t.version(c)
	refuse := func(code, format string, args ...any) error {
		return armerror.New(code, format, args...).WithTarget("properties.orchestratorVersion")
	}
	if plane == "" {
		return nil
	}
	a, b := numbers(want), numbers(plane)
	switch {
	case newer(want, plane):
		return refuse("NodePoolMcVersionIncompatible", "Node pool version %s and control plane version %s are incompatible. Minor version of node pool version %d is bigger than control plane version %d. For more information, please check https://aka.ms/aks/UpgradeVersionRules.", want, plane, a[1], b[1])
	case a[0] != b[0] || b[1]-a[1] > maxSkew:
		return refuse("NodePoolMcVersionIncompatible", "Node pool version %s and control plane version %s are incompatible. A node pool is at most %d minor versions behind. For more information, please check https://aka.ms/aks/UpgradeVersionRules.", want, plane, maxSkew)
	case !slices.Contains(t.Versions, want) && want != have:
		return refuse("AgentPoolK8sVersionNotSupported", "Version %s is not supported in this region. Please use [az aks get-versions] command to get the supported version list in this region.", want)
	}
	if mem.Model != nil && newer(mem.Model.KubernetesVersion, have) {
		have = mem.Model.KubernetesVersion // an upgrade that has begun
	}
	if newer(have, want) {
		return refuse("AgentPoolUpgradeVersionNotAllowed", "Upgrading agent pool %s from Kubernetes version %s to %s is not allowed. Please see https://aka.ms/aks-supported-k8s-ver for version details.", name, have, want)
	}
	return nil
}

// prepareDelete keeps a cluster from losing its last System pool while it lives.
func (t service) prepareDelete(ctx context.Context, r *resourcetype.Request[Model]) error {
	clusterID, _ := r.ID.Parent()
	var c cluster
	if err := r.Documents.Get(ctx, clusterID, &c); errors.Is(err, resourcestore.ErrNotFound) || c.Properties.ProvisioningState == "Deleting" {
		return nil
	} else if err != nil {
		return err
	}
	if err := c.mustRun("deleting an agent pool"); err != nil {
		return err
	}
	return t.keepSystemPool(ctx, r)
}

// keepSystemPool refuses to lose the cluster's last System pool.
func (t service) keepSystemPool(ctx context.Context, r *resourcetype.Request[Model]) error {
	if r.Existing.Properties.Mode != "System" {
		return nil
	}
	clusterID, _ := r.ID.Parent()
	pools, err := r.Documents.List(ctx, clusterID, Name)
	if err != nil {
		return err
	}
	others := slices.ContainsFunc(pools, func(p resourcestore.Resource) bool {
		var m Model
		return !p.ID.Equal(r.ID) && !p.Deleting && r.Documents.Get(ctx, p.ID, &m) == nil && m.Properties.Mode == "System"
	})
	if others {
		return nil
	}
	return armerror.New("OperationNotAllowed", "There has to be at least one system agent pool; %s is the last one.", r.ID.Name())
}
