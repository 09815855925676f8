package diagnosis

import (
	"slices"
	"strings"

	"github.com/cloister-dev/cloister/internal/app/documents"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/lib/adminapi"
)

// Codes of warnings. They are Cloister's: Azure is silent about each.
const (
	WarningDefaultOutbound  = "DefaultOutboundAccessLeftOn"
	WarningNodePublicIP     = "NodePublicIPOpensEgress"
	WarningWayOut           = "EgressLeftOpen"
	WarningReimageDue       = "ReimageDue"
	WarningPublicAPIServer  = "PublicAPIServerWithoutEgress"
	WarningIgnoredArgument  = "ArgumentIgnored"
	WarningPublicRegistry   = "RegistryPublicAccessEnabled"
	registryArgument        = "--bootstrap-container-registry-resource-id"
	registryArgumentPartner = "--bootstrap-artifact-source"
)

// warnings are what works and does not do what who wrote it may believe, from the documents alone.
func (w *world) warnings(of *cluster) []adminapi.Warning {
	var out []adminapi.Warning
	warn := func(code string, subject resourceid.ID, mend []string, message string) {
		out = append(out, adminapi.Warning{Code: code, Subject: subject.String(), Message: message, Mend: mend})
	}
	var old []string
	for _, m := range of.machines {
		if of.outdated(m) != "" {
			old = append(old, m.Name)
		}
	}
	if len(old) > 0 {
		warn(WarningReimageDue, of.id, []string{of.reimage()}, "An update changes no node that there is. Not reimaged since, and still what they were: "+strings.Join(old, ", ")+".")
	}
	if of.isolated() {
		for _, id := range w.subnets(of) {
			w.leaks(of, id, warn)
		}
		if a := of.Properties.APIServerAccessProfile; !a.EnablePrivateCluster && !a.EnableVnetIntegration {
			warn(WarningPublicAPIServer, of.id, nil, "The API server is public, and the nodes have no way to it: nodes that are made or reimaged from now on fail with exit status 51.")
		}
	}
	if id := of.registryOf(); !id.IsZero() && of.isolated() {
		var v registryView
		if w.docs.Read(id, &v) && v.Properties.PublicNetworkAccess != "Disabled" {
			warn(WarningPublicRegistry, id, []string{az("acr", "update", "-g", id.ResourceGroup(), "-n", id.Name(), "--public-network-enabled", "false")},
				"The bootstrap registry answers on the Internet as well as on its private endpoint.")
		}
	}
	if slices.Contains(of.Cloister.IgnoredArguments, registryArgument) {
		warn(WarningIgnoredArgument, of.id, nil, "The Azure CLI drops "+registryArgument+" without "+registryArgumentPartner+" Cache (azure-cli#31209): the cluster still has the registry that it had. Repeat the update with both.")
	}
	return out
}

// subnets are those of the cluster's nodes.
func (w *world) subnets(of *cluster) []resourceid.ID {
	var out []resourceid.ID
	add := func(id resourceid.ID) {
		if !id.IsZero() && !slices.ContainsFunc(out, id.Equal) {
			out = append(out, id)
		}
	}
	add(of.subnet())
	for _, p := range of.pools {
		if id, err := resourceid.Parse(p.Properties.VnetSubnetID); err == nil {
			add(id)
		}
	}
	return out
}

// leaks are the ways by which a subnet's nodes reach the Internet though AKS gives them none.
func (w *world) leaks(of *cluster, id resourceid.ID, warn func(code string, subject resourceid.ID, mend []string, message string)) {
	var doc struct {
		Properties struct {
			DefaultOutboundAccess *bool
			NATGateway            documents.Ref
			RouteTable            documents.Ref
		}
	}
	if !w.docs.Read(id, &doc) {
		return
	}
	p := doc.Properties
	outbound := of.Properties.NetworkProfile.OutboundType
	if !p.NATGateway.ID.IsZero() && w.docs.Has(p.NATGateway.ID) {
		warn(WarningWayOut, id, []string{subnetUpdate(id, "--nat-gateway", "null")}, "Outbound type "+outbound+" adds no way out, and closes none: subnet "+id.Name()+" has NAT gateway "+p.NATGateway.ID.Name()+".")
	} else if p.DefaultOutboundAccess == nil || *p.DefaultOutboundAccess {
		warn(WarningDefaultOutbound, id, []string{subnetUpdate(id, "--default-outbound-access", "false")}, "Outbound type "+outbound+" adds no way out, and closes none: subnet "+id.Name()+" has default outbound access, by which its nodes reach the Internet.")
	}
	for _, m := range of.machines {
		var nic struct {
			Properties struct {
				IPConfigurations []struct {
					Properties struct{ PublicIPAddress documents.Ref }
				}
			}
		}
		if !w.docs.Read(m.NIC, &nic) {
			continue
		}
		for _, c := range nic.Properties.IPConfigurations {
			if address := c.Properties.PublicIPAddress.ID; !address.IsZero() {
				warn(WarningNodePublicIP, m.NIC, nil, "Node "+m.Name+" has public IP address "+address.Name()+", by which it reaches the Internet whatever the cluster's outbound type.")
			}
		}
	}
}

func subnetUpdate(id resourceid.ID, words ...string) string {
	vnet, _ := id.Parent()
	return az(append([]string{"network", "vnet", "subnet", "update", "-g", id.ResourceGroup(), "--vnet-name", vnet.Name(), "-n", id.Name()}, words...)...)
}
