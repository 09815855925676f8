package agentpools

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// nameRule is AKS's for Linux pools: it becomes part of host names.
var nameRule = regexp.MustCompile(`^[a-z][a-z0-9]{0,11}$`)

const (
	maxPods     = 250 // limit of node subnet addressing
	defaultPods = 30  // its default
	minPods     = 10
	maxCount    = 1000
)

// prepare fills in what the service decides and refuses what cannot be made.
func (t service) prepare(ctx context.Context, r *resourcetype.Request[Model]) error {
	clusterID, _ := r.ID.Parent()
	var c cluster
	if err := r.Documents.Get(ctx, clusterID, &c); err != nil && !errors.Is(err, resourcestore.ErrNotFound) {
		return err
	}
	p := &r.Model.Properties
	r.Model.Name = r.ID.Name()
	if r.Existing != nil {
		was := r.Existing.Properties
		r.Model.Memory = r.Existing.Memory
		p.VMSize = or(p.VMSize, was.VMSize)
		p.NodeImageVersion = was.NodeImageVersion
		p.CurrentOrchestratorVersion = was.CurrentOrchestratorVersion
		p.OrchestratorVersion = or(p.OrchestratorVersion, was.OrchestratorVersion)
		p.Mode = or(p.Mode, was.Mode)
		if p.Count == nil {
			p.Count = was.Count
		}
		if p.MaxPods == 0 {
			p.MaxPods = was.MaxPods
		}
		p.VnetSubnetID = or(p.VnetSubnetID, was.VnetSubnetID)
		for _, f := range []struct{ name, value, was string }{
			{"vmSize", p.VMSize, was.VMSize}, {"vnetSubnetID", p.VnetSubnetID, was.VnetSubnetID}, {"osType", or(p.OSType, was.OSType), was.OSType},
		} {
			if !strings.EqualFold(f.value, f.was) {
				return armerror.New(armerror.PropertyChangeNotAllowed, "Changing property 'properties.%s' is not allowed.", f.name).WithTarget("properties." + f.name)
			}
		}
		if p.MaxPods != was.MaxPods {
			return armerror.New(armerror.PropertyChangeNotAllowed, "Changing property 'properties.maxPods' is not allowed.").WithTarget("properties.maxPods")
		}
	}
	if r.Model.Memory == nil {
		r.Model.Memory = &Memory{}
	}
	if r.Existing != nil && r.Existing.Properties.ProvisioningState == "Failed" {
		mem := r.Model.Memory
		mem.Attempt++
		mem.Fault = nil
		if !mem.Provisioned {
			mem.Model = nil
			for i := range mem.Machines {
				mem.Machines[i].NodeModel = NodeModel{}
			}
		}
	}
	if err := t.preparePower(r, c); err != nil {
		return err
	}
	version := t.version(c)
	p.OrchestratorVersion = or(p.OrchestratorVersion, version)
	have := p.CurrentOrchestratorVersion
	if r.Existing == nil {
		have, p.CurrentOrchestratorVersion = "", ""
		p.CurrentOrchestratorVersion = t.target(*p, c)
	}
	defaults(p, t.NodeImageVersion)
	if err := t.validate(p, c); err != nil {
		return err
	}
	if err := t.validateVersion(r.ID.Name(), *p, have, r.Model.Memory, c); err != nil {
		return err
	}
	if r.Existing != nil {
		if p.Mode != "System" {
			if err := t.keepSystemPool(ctx, r); err != nil {
				return err
			}
		}
		if mem, target := r.Model.Memory, t.target(*p, c); target != p.CurrentOrchestratorVersion && (mem.Model == nil || mem.Model.KubernetesVersion != target) {
			mem.takeOver()
		}
	}
	r.Model.Memory.remember(*p)
	if p.VnetSubnetID != "" && r.Existing == nil {
		if err := validateSubnet(ctx, r.Documents, p.VnetSubnetID, c); err != nil {
			return err
		}
	}
	return validateSize(ctx, r, c)
}

// preparePower decides whether the pool is to run.
func (t service) preparePower(r *resourcetype.Request[Model], c cluster) error {
	p := &r.Model.Properties
	was := powerRunning
	if r.Existing != nil && r.Existing.stopped() {
		was = powerStopped
	}
	if p.PowerState == nil || p.PowerState.Code == "" {
		p.PowerState = &PowerState{Code: was}
	}
	code := p.PowerState.Code
	if err := c.mustRun("updating an agent pool"); err != nil {
		return err
	}
	switch {
	case code != powerRunning && code != powerStopped:
		return armerror.New(armerror.InvalidParameter, "The power state %q is not valid. Allowed values: 'Running', 'Stopped'.", code).WithTarget("properties.powerState.code")
	case code == powerStopped && r.Existing == nil:
		return armerror.New(armerror.InvalidParameter, "An agent pool is not made stopped.").WithTarget("properties.powerState.code")
	case code == powerStopped && was == powerRunning && p.Mode == "System" && c.Memory.Power != powerStopping:
		return armerror.New(armerror.OperationNotAllowed, "The System agent pool %s cannot be stopped; stop the cluster.", r.ID.Name()).WithTarget("properties.powerState.code")
	}
	return nil
}

func defaults(p *Properties, image string) {
	if p.Count == nil {
		p.Count = ptr(1)
	}
	p.VMSize = or(p.VMSize, DefaultVMSize)
	p.NodeImageVersion = or(p.NodeImageVersion, image)
	if p.OSDiskSizeGB == 0 {
		p.OSDiskSizeGB = 128
	}
	p.OSDiskType = or(p.OSDiskType, "Managed")
	p.KubeletDiskType = or(p.KubeletDiskType, "OS")
	if p.MaxPods == 0 {
		p.MaxPods = defaultPods
	}
	p.OSType = or(p.OSType, "Linux")
	p.OSSKU = or(p.OSSKU, "Ubuntu")
	p.Type = or(p.Type, "VirtualMachineScaleSets")
	p.Mode = or(p.Mode, "User")
	p.ScaleDownMode = or(p.ScaleDownMode, "Delete")
	if p.UpgradeSettings == nil {
		p.UpgradeSettings = &UpgradeSettings{}
	}
	p.UpgradeSettings.MaxSurge = or(p.UpgradeSettings.MaxSurge, "10%")
	if p.NodeLabels == nil {
		p.NodeLabels = map[string]string{}
	}
	if p.SecurityProfile == nil {
		p.SecurityProfile = &SecurityProfile{EnableVTPM: ptr(false), EnableSecureBoot: ptr(false)}
	}
}

func (t service) validate(p *Properties, c cluster) error {
	refuse := func(property, format string, args ...any) error {
		return armerror.New(armerror.InvalidParameter, format, args...).WithTarget("properties." + property)
	}
	unsupported := func(property, format string, args ...any) error {
		return armerror.New(armerror.NotSupported, format, args...).WithTarget("properties." + property)
	}
	if *p.Count < 0 || *p.Count > maxCount || *p.Count == 0 && p.Mode == "System" {
		return refuse("count", "The value of parameter agentPoolProfile.count is invalid. A System pool has 1 to %d nodes, a User pool 0 to %d; %d was asked for.", maxCount, maxCount, *p.Count)
	}
	if p.MaxPods < minPods || p.MaxPods > maxPods {
		return refuse("maxPods", "The value of parameter agentPoolProfile.maxPods is invalid: %d is not between %d and %d.", p.MaxPods, minPods, maxPods)
	}
	size, ok := vmSizes[canonicalSize(p.VMSize)]
	if !ok {
		return armerror.New("VMSizeNotSupported", "The VM size of %s is not supported by Cloister. Supported sizes are %s.", p.VMSize, strings.Join(slices.Sorted(maps.Keys(vmSizes)), ", ")).WithTarget("properties.vmSize")
	}
	p.VMSize = canonicalSize(p.VMSize)
	if p.Mode == "System" && (size.CPUs < 2 || size.MemoryMiB < 4<<10) {
		return armerror.New("SystemPoolSkuTooLow", "The VM SKU chosen for this cluster `%s` does not have enough CPU/memory to run as system node pool. Please use a VM SKU with at least 2 CPU cores and 4GB memory.", p.VMSize).WithTarget("properties.vmSize")
	}
	switch {
	case strings.EqualFold(p.OSType, "Windows") && c.Properties.BootstrapProfile.ArtifactSource != "Cache":
		return unsupported("osType", "Windows agent pools are not supported by Cloister.")
	case strings.EqualFold(p.OSType, "Windows"):
		return armerror.New("InvalidNetworkIsolatedClusterConfiguration", "Windows agent pools are not supported in a network isolated cluster").WithTarget("properties.osType")
	case p.OSType != "Linux":
		return refuse("osType", "The osType %q is not valid.", p.OSType)
	case p.OSSKU != "Ubuntu" && p.OSSKU != "Ubuntu2204":
		return unsupported("osSKU", "The osSKU %q is not supported by Cloister; use 'Ubuntu'.", p.OSSKU)
	case p.Type != "VirtualMachineScaleSets":
		return unsupported("type", "The pool type %q is not supported by Cloister; use 'VirtualMachineScaleSets'.", p.Type)
	case p.Mode != "System" && p.Mode != "User":
		return unsupported("mode", "The pool mode %q is not supported by Cloister; use 'System' or 'User'.", p.Mode)
	case isTrue(p.EnableAutoScaling):
		return unsupported("enableAutoScaling", "The cluster autoscaler is not supported by this version of Cloister.")
	case isTrue(p.EnableNodePublicIP):
		return unsupported("enableNodePublicIP", "Node public IP addresses are not supported by this version of Cloister.")
	case isTrue(p.EnableUltraSSD):
		return unsupported("enableUltraSSD", "Ultra disks are not supported by Cloister.")
	case isTrue(p.EnableFIPS):
		return unsupported("enableFIPS", "FIPS node images are not supported by Cloister.")
	case isTrue(p.EnableEncryptionAtHost):
		return unsupported("enableEncryptionAtHost", "Encryption at host is not supported by Cloister.")
	case strings.EqualFold(p.ScaleSetPriority, "Spot"):
		return unsupported("scaleSetPriority", "Spot agent pools are not supported by Cloister.")
	case len(p.AvailabilityZones) > 0:
		return unsupported("availabilityZones", "Availability zones are not supported by Cloister.")
	}
	return p.UpgradeSettings.validate()
}

// validateSubnet checks a pool's own subnet against the cluster's network.
func validateSubnet(ctx context.Context, docs resourcetype.Reader, subnet string, c cluster) error {
	refuse := func(code, format string, args ...any) error {
		return armerror.New(code, format, args...).WithTarget("properties.vnetSubnetID")
	}

	id, err := resourceid.Parse(subnet)
	if err != nil || !id.Is("Microsoft.Network/virtualNetworks/subnets") {
		return refuse(armerror.InvalidParameter, "vnetSubnetID %q is not the resource ID of a subnet.", subnet)
	}
	var doc struct {
		Properties struct {
			AddressPrefix   string            `json:"addressPrefix"`
			AddressPrefixes []string          `json:"addressPrefixes"`
			Delegations     []json.RawMessage `json:"delegations"`
		} `json:"properties"`
	}
	if err := docs.Get(ctx, id, &doc); errors.Is(err, resourcestore.ErrNotFound) {
		return refuse("SubnetNotFound", "The subnet %s of vnetSubnetID was not found.", subnet)
	} else if err != nil {
		return err
	}
	if len(doc.Properties.Delegations) > 0 {
		return refuse("SubnetIsDelegated", "AgentPoolProfile subnet with id %s cannot be used as it's a delegated subnet. Please check https://aka.ms/adv-network-prerequest for more details.", subnet)
	}
	if first, err := resourceid.Parse(c.Memory.SubnetID); err == nil && c.Memory.SubnetID != "" {
		of, _ := first.Parent()
		if vnet, _ := id.Parent(); !vnet.Equal(of) {
			return refuse(armerror.InvalidParameter, "All agent pools of a cluster must be in one virtual network: %s is not in %s.", subnet, of)
		}
	}
	service, err := netip.ParsePrefix(c.Properties.NetworkProfile.ServiceCIDR)
	if err != nil {
		return fmt.Errorf("read the service range of %s: %w", c.ID, err)
	}
	for _, s := range append(doc.Properties.AddressPrefixes, doc.Properties.AddressPrefix) {
		if prefix, err := netip.ParsePrefix(s); err == nil && prefix.Overlaps(service) {
			return armerror.New("ServiceCidrOverlapExistingSubnetsCidr", "The specified service CIDR %s is conflicted with an existing subnet CIDR %s", service, prefix).WithTarget("properties.networkProfile.serviceCidr")
		}
	}
	return nil
}

// canonicalSize is Azure's spelling of a size written in any case.
func canonicalSize(s string) string {
	for name := range vmSizes {
		if strings.EqualFold(name, s) {
			return name
		}
	}
	return s
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
