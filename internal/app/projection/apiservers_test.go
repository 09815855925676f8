package projection

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/cloister-dev/cloister/internal/engine/fabric"
)

// integrated is a cluster with an API server in the subnet api, and a public address.
func integrated(profile string) set {
	all := oneCluster().with(subnetOf("vnet", "api", "10.226.0.0/28", `,"delegations":[{"name":"aks","properties":{"serviceName":"Microsoft.ContainerService/managedClusters"}}]`))
	group := strings.Replace(net, "resourceGroups/rg/", "resourceGroups/MC_rg_demo_eastus/", 1)
	all = all.with(set{group + "loadBalancers/kube-apiserver": `{"properties":{"frontendIPConfigurations":[` + ipConfig(net+"virtualNetworks/vnet/subnets/api", "10.226.0.4", true) + `]}}`})
	doc := strings.Replace(all[aks+"demo"], `"enablePrivateCluster":true,"enablePrivateClusterPublicFQDN":true`, profile, 1)
	return all.with(set{aks + "demo": strings.Replace(doc, `"endpointAddress":"10.224.0.6"`, `"endpointAddress":"10.226.0.4","publicAddress":"198.18.16.1"`, 1)}).
		without(net+"privateEndpoints/kube-apiserver", aks+"demo/privateEndpointConnections/kube-apiserver")
}

func TestAPIServers(t *testing.T) {
	for profile, want := range map[string]struct{ nic, front, tunnel bool }{
		`"enableVnetIntegration":true,"enablePrivateCluster":true`: {nic: true},
		`"enableVnetIntegration":true`:                             {nic: true, front: true},
		``:                                                         {front: true, tunnel: true},
		`"authorizedIPRanges":["198.18.8.0/21","198.18.9.1"]`: {front: true, tunnel: true},
	} {
		s := project(t, integrated(profile).input())
		var nics, public int
		for _, nic := range s.Fabric.Networks[0].NICs {
			if nic.Guest.Name == "cp-c1" {
				nics++
				if nic.Address != netip.MustParseAddr("10.226.0.4") || nic.Subnet != "api" {
					t.Errorf("%s: the control plane has %+v", profile, nic)
				}
			}
		}
		for _, r := range s.Services.Public {
			if r.Name == "demo-1.hcp.eastus.azmk8s.io" && r.Value == "198.18.16.1" {
				public++
			}
		}
		if (nics == 1) != want.nic || (len(s.Fabric.Fronts) == 1) != want.front || (public == 1) != want.front || (s.Services.Clusters[0].TunnelSocket != "") != want.tunnel {
			t.Errorf("%s: %d interfaces, fronts %+v, %d public names, the tunnel at %q", profile, nics, s.Fabric.Fronts, public, s.Services.Clusters[0].TunnelSocket)
		}
		if want.front {
			f := s.Fabric.Fronts[0]
			sources := strings.Contains(profile, "Ranges")
			if f.Leaf != "cp-c1" || f.Address != netip.MustParseAddr("198.18.16.1") || (len(f.Sources) == 2) != sources || (len(f.Networks) == 1) != sources {
				t.Errorf("%s: front %+v", profile, f)
			}
		}
		for _, subnet := range s.Fabric.Networks[0].Subnets {
			if subnet.Name == "api" && subnet.DefaultOutbound {
				t.Errorf("%s: the API server is let out by its subnet's default", profile)
			}
		}
	}
	// What a deletion has removed holds neither address.
	doc := integrated(`"enableVnetIntegration":true`)
	doc[aks+"demo"] = strings.Replace(doc[aks+"demo"], `"cloister":{`, `"cloister":{"removed":true,`, 1)
	s := project(t, doc.input())
	if len(s.Fabric.Fronts) > 0 || len(s.Fabric.Networks[0].NICs) != 1 || s.Fabric.Networks[0].NICs[0].Guest == (fabric.Guest{Name: "cp-c1"}) {
		t.Errorf("a removed cluster: %+v", s.Fabric)
	}
}
