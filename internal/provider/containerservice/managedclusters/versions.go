package managedclusters

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// Endpoints are the paths of Microsoft.ContainerService that have no documents: the versions there are, those that a
// cluster can be upgraded to, and what came of commands.
//
// https://learn.microsoft.com/rest/api/aks/managed-clusters/list-kubernetes-versions
// https://learn.microsoft.com/rest/api/aks/managed-clusters/get-upgrade-profile
// https://learn.microsoft.com/rest/api/aks/agent-pools/get-upgrade-profile
// https://learn.microsoft.com/rest/api/aks/agent-pools/get-available-agent-pool-versions
func Endpoints(d Deps) []resourcetype.Definition {
	t := service{Deps: d}
	return []resourcetype.Definition{
		resourcetype.DefineEndpoint(resourcetype.Endpoint{Name: "Microsoft.ContainerService/locations/kubernetesVersions", Get: t.kubernetesVersions}),
		resourcetype.DefineEndpoint(resourcetype.Endpoint{Name: Name + "/upgradeProfiles", Get: t.upgradeProfile}),
		resourcetype.DefineEndpoint(resourcetype.Endpoint{Name: Name + "/commandResults", Get: t.commandResult}),
		resourcetype.DefineEndpoint(resourcetype.Endpoint{Name: Name + "/availableAgentPoolVersions", Get: t.poolVersions}),
		resourcetype.DefineEndpoint(resourcetype.Endpoint{Name: poolType + "/upgradeProfiles", Get: t.poolUpgradeProfile}),
	}
}

func minor(version string) string { return version[:strings.LastIndex(version, ".")] }

// upgrades are the versions that a cluster of the version can go to: later patches, and the next minor.
func (t service) upgrades(version string) []string {
	out := []string{}
	at := slices.Index(t.Versions, version)
	if at < 0 {
		return out
	}
	next := ""
	for _, v := range t.Versions[at+1:] {
		if m := minor(v); m != minor(version) && next == "" {
			next = m
		}
		if m := minor(v); m == minor(version) || m == next {
			out = append(out, v)
		}
	}
	return out
}

func (t service) kubernetesVersions(context.Context, *resourcetype.EndpointRequest) (any, error) {
	values := []object{}
	for _, v := range t.Versions {
		i := slices.IndexFunc(values, func(o object) bool { return o["version"] == minor(v) })
		if i < 0 {
			i = len(values)
			values = append(values, object{
				"version": minor(v), "isPreview": nil, "capabilities": object{"supportPlan": []string{"KubernetesOfficial"}}, "patchVersions": object{},
			})
		}
		values[i]["patchVersions"].(object)[v] = object{"upgrades": t.upgrades(v)}
	}
	for _, v := range values {
		if v["version"] == minor(t.DefaultVersion) {
			v["isDefault"] = true // what a request without a version gets
		}
	}
	return object{"values": values}, nil
}

func (t service) upgradeProfile(ctx context.Context, r *resourcetype.EndpointRequest) (any, error) {
	if len(r.Names) != 2 || !strings.EqualFold(r.Names[1], "default") {
		return nil, armerror.New(armerror.NotFound, "A managed cluster has the upgrade profile 'default' only.")
	}
	id, m, err := t.clusterOf(ctx, r)
	if err != nil {
		return nil, err
	}
	profile := func(name, version string) object {
		return object{"name": name, "kubernetesVersion": version, "osType": "Linux", "upgrades": versionList(t.upgrades(version))}
	}
	pools, err := r.Documents.List(ctx, id, poolType)
	if err != nil {
		return nil, fmt.Errorf("list the agent pools of %s: %w", id, err)
	}
	profiles := []object{}
	for _, p := range pools {
		var doc struct {
			Properties struct {
				CurrentOrchestratorVersion string `json:"currentOrchestratorVersion"`
			} `json:"properties"`
		}
		if err := json.Unmarshal(p.Body, &doc); err != nil {
			return nil, fmt.Errorf("read %s: %w", p.ID, err)
		}
		profiles = append(profiles, profile(p.ID.Name(), doc.Properties.CurrentOrchestratorVersion))
	}
	return object{
		"id": id.String() + "/upgradeprofiles/default", "name": "default", "type": Name + "/upgradeprofiles",
		"properties": object{"controlPlaneProfile": profile(id.Name(), m.Properties.CurrentKubernetesVersion), "agentPoolProfiles": profiles},
	}, nil
}

// clusterOf reads the cluster that an endpoint's path names first.
func (t service) clusterOf(ctx context.Context, r *resourcetype.EndpointRequest) (resourceid.ID, Model, error) {
	id := r.Scope.Resource(Name, r.Names[0])
	var m Model
	err := r.Documents.Get(ctx, id, &m)
	if errors.Is(err, resourcestore.ErrNotFound) {
		return id, m, armerror.New(armerror.ResourceNotFound, "The Resource '%s/%s' under resource group '%s' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix", Name, id.Name(), id.ResourceGroup())
	}
	if err != nil {
		return id, m, fmt.Errorf("read %s: %w", id, err)
	}
	return id, m, nil
}

func versionList(versions []string) []object {
	list := []object{}
	for _, v := range versions {
		list = append(list, object{"kubernetesVersion": v})
	}
	return list
}

// poolVersions are those that a pool of the cluster may have: none newer than the control plane, none more than three
// minor versions older.
func (t service) poolVersions(ctx context.Context, r *resourcetype.EndpointRequest) (any, error) {
	if len(r.Names) < 1 {
		return nil, armerror.New(armerror.NotFound, "The path names no managed cluster.")
	}
	id, m, err := t.clusterOf(ctx, r)
	if err != nil {
		return nil, err
	}
	list := []object{}
	for i, v := range t.Versions {
		if i > slices.Index(t.Versions, m.Properties.CurrentKubernetesVersion) {
			break
		}
		o := object{"version": v}
		if v == m.Properties.CurrentKubernetesVersion {
			o["default"] = true
		}
		list = append(list, o)
	}
	return object{
		"id": id.String() + "/availableagentpoolversions", "name": "default", "type": Name + "/availableAgentpoolVersions",
		"properties": object{"agentPoolVersions": list},
	}, nil
}

// poolUpgradeProfile is what one pool can be upgraded to: what its control plane runs already.
func (t service) poolUpgradeProfile(ctx context.Context, r *resourcetype.EndpointRequest) (any, error) {
	if len(r.Names) != 3 || !strings.EqualFold(r.Names[2], "default") {
		return nil, armerror.New(armerror.NotFound, "An agent pool has the upgrade profile 'default' only.")
	}
	id, m, err := t.clusterOf(ctx, r)
	if err != nil {
		return nil, err
	}
	pool := id.Child("agentPools", r.Names[1])
	var doc struct {
		Properties struct {
			CurrentOrchestratorVersion string `json:"currentOrchestratorVersion"`
			OSType                     string `json:"osType"`
		} `json:"properties"`
	}
	if err := r.Documents.Get(ctx, pool, &doc); errors.Is(err, resourcestore.ErrNotFound) {
		return nil, armerror.New(armerror.ResourceNotFound, "The Resource '%s/%s/agentPools/%s' under resource group '%s' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix", Name, id.Name(), pool.Name(), id.ResourceGroup())
	} else if err != nil {
		return nil, fmt.Errorf("read %s: %w", pool, err)
	}
	have := doc.Properties.CurrentOrchestratorVersion
	plane := slices.Index(t.Versions, m.Properties.CurrentKubernetesVersion)
	possible := slices.DeleteFunc(t.upgrades(have), func(v string) bool { return slices.Index(t.Versions, v) > plane })
	return object{
		"id": pool.String() + "/upgradeProfiles/default", "name": "default", "type": poolType + "/upgradeProfiles",
		"properties": object{"kubernetesVersion": have, "osType": doc.Properties.OSType, "upgrades": versionList(possible), "latestNodeImageVersion": t.NodeImageVersion},
	}, nil
}
