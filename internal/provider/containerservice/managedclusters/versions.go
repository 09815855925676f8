package managedclusters

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// Endpoints are the paths of Microsoft.ContainerService that have no documents: the versions there are, those that a
// cluster can be upgraded to, and what came of commands.
//
// https://learn.microsoft.com/rest/api/aks/managed-clusters/list-kubernetes-versions
// https://learn.microsoft.com/rest/api/aks/managed-clusters/get-upgrade-profile
func Endpoints(d Deps) []resourcetype.Definition {
	t := service{Deps: d}
	return []resourcetype.Definition{
		resourcetype.DefineEndpoint(resourcetype.Endpoint{Name: "Microsoft.ContainerService/locations/kubernetesVersions", Get: t.kubernetesVersions}),
		resourcetype.DefineEndpoint(resourcetype.Endpoint{Name: Name + "/upgradeProfiles", Get: t.upgradeProfile}),
		resourcetype.DefineEndpoint(resourcetype.Endpoint{Name: Name + "/commandResults", Get: t.commandResult}),
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
	id := r.Scope.Resource(Name, r.Names[0])
	var m Model
	if err := r.Documents.Get(ctx, id, &m); errors.Is(err, resourcestore.ErrNotFound) {
		return nil, armerror.New(armerror.ResourceNotFound, "The Resource '%s/%s' under resource group '%s' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix", Name, id.Name(), id.ResourceGroup())
	} else if err != nil {
		return nil, fmt.Errorf("read %s: %w", id, err)
	}
	profile := func(name, version string) object {
		list := []object{}
		for _, v := range t.upgrades(version) {
			list = append(list, object{"kubernetesVersion": v})
		}
		return object{"name": name, "kubernetesVersion": version, "osType": "Linux", "upgrades": list}
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
