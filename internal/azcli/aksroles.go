package azcli

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
)

// Roles that az gives the identities of a cluster in one's own network before it asks for the cluster.
const (
	networkContributor      = "4d97b98b-1d4f-4787-a291-c67834d212e7"
	managedIdentityOperator = "f1a07417-d97a-45cb-824c-7a7467783830"
)

// grantSubnet gives the control plane's identity Network Contributor on the subnet, unless somebody has it there.
// That it cannot is a warning, as with az: who lacks the right to assign may have had it done by another.
func (c *call) grantSubnet() error {
	subnet := c.get("vnet-subnet-id")
	if subnet == "" || c.is("skip-subnet-role-assignment") {
		return nil
	}
	all, err := c.c.list(c.ctx, subnet+assignmentsPath+"?$filter="+url.QueryEscape("atScope()"), assignmentAPI)
	if err != nil {
		return err
	}
	for _, a := range all {
		if scope, role := assignment(a); scope == subnet && strings.HasSuffix(role, networkContributor) {
			return nil
		}
	}
	if !c.has("assign-identity") {
		c.warn("The cluster's own identity will need the role Network Contributor on the subnet; give it one with --assign-identity to have that done here.")
		return nil
	}
	identity, err := c.identity(c.get("assign-identity"))
	if err != nil {
		return err
	}
	if _, err := c.assign(subnet, "Network Contributor", "", object{"principalId": identity["principalId"]}); err != nil {
		c.warn("Could not create a role assignment for subnet. Are you an Owner on this subscription? %v", err)
	}
	return nil
}

// grantKubelet lets the control plane's identity assign the kubelet's to nodes.
func (c *call) grantKubelet(kubelet string) error {
	identity, err := c.identity(c.get("assign-identity"))
	if err != nil {
		return err
	}
	scope := strings.ToLower(kubelet) // as az spells it here
	filter := fmt.Sprintf("atScope() and assignedTo('%v')", identity["principalId"])
	all, err := c.c.list(c.ctx, scope+assignmentsPath+"?$filter="+url.QueryEscape(filter), assignmentAPI)
	if err != nil {
		return err
	}
	for _, a := range all {
		if _, role := assignment(a); strings.HasSuffix(role, managedIdentityOperator) {
			return nil
		}
	}
	if _, err := c.assign(scope, "Managed Identity Operator", "", object{"principalId": identity["principalId"]}); err != nil {
		return fmt.Errorf("Could not grant Managed Identity Operator permission to cluster identity at scope %s: %w", kubelet, err)
	}
	return nil
}

func assignment(doc any) (scope, role string) {
	m, _ := doc.(map[string]any)
	p, _ := m["properties"].(map[string]any)
	scope, _ = p["scope"].(string)
	role, _ = p["roleDefinitionId"].(string)
	return scope, strings.ToLower(role)
}

// attach lets the cluster's kubelet identity pull from a registry given by name or ID.
func (c *call) attach(doc any, registry string) error {
	kubelet, id, err := c.kubeletAndRegistry(doc, registry)
	if err != nil {
		return err
	}
	_, err = c.assign(id, "acrpull", "", object{"principalId": kubelet})
	return err
}

// detach takes that away.
func (c *call) detach(doc any, registry string) error {
	kubelet, id, err := c.kubeletAndRegistry(doc, registry)
	if err != nil {
		return err
	}
	definitions, err := c.definitions(id, "acrpull")
	if err != nil {
		return err
	}
	roles := roleNames(definitions)
	all, err := c.c.list(c.ctx, id+assignmentsPath+"?$filter="+url.QueryEscape("atScope()"), assignmentAPI)
	if err != nil {
		return err
	}
	for _, a := range all {
		m, _ := a.(map[string]any)
		p, _ := m["properties"].(map[string]any)
		_, role := assignment(a)
		if _, pulls := roles[path.Base(role)]; !pulls || !equalText(p["principalId"], kubelet) || !equalText(p["scope"], id) {
			continue
		}
		name, _ := m["id"].(string)
		at, err := resourceid.Parse(name)
		if err != nil {
			return err
		}
		if _, err := c.remove(at, assignmentAPI); err != nil {
			return err
		}
	}
	return nil
}

// kubeletAndRegistry are the object ID of a cluster's kubelet identity and the ID of a registry.
func (c *call) kubeletAndRegistry(doc any, registry string) (kubelet any, id string, err error) {
	m, _ := doc.(map[string]any)
	p, _ := m["properties"].(map[string]any)
	profile, _ := p["identityProfile"].(map[string]any)
	identity, _ := profile["kubeletidentity"].(map[string]any)
	if identity["objectId"] == nil {
		return nil, "", errors.New("the cluster does not say what its kubelet identity is; the registry is not attached")
	}
	if strings.HasPrefix(registry, "/") {
		_, err = resourceid.Parse(registry)
		return identity["objectId"], registry, err
	}
	found, err := c.registryNamed(registry)
	return identity["objectId"], found.String(), err
}
