package azcli

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	subscription = "22222222-2222-2222-2222-222222222222"
	demoGroup    = "/subscriptions/" + subscription + "/resourceGroups/rg-demo"
	prefix       = "/subscriptions/" + subscription + "/resourceGroups/rg-netiso/providers/"
	byoCluster   = "-g rg-netiso --kubernetes-version 1.30.3 --vnet-subnet-id " + prefix + "Microsoft.Network/virtualNetworks/vnet-netiso/subnets/snet-aks" +
		" --assign-identity " + prefix + "Microsoft.ManagedIdentity/userAssignedIdentities/id-controlplane" +
		" --assign-kubelet-identity " + prefix + "Microsoft.ManagedIdentity/userAssignedIdentities/id-kubelet" +
		" --bootstrap-artifact-source Cache --bootstrap-container-registry-resource-id " + prefix + "Microsoft.ContainerRegistry/registries/netisoreg01 --outbound-type none --network-plugin azure"
)

// recorded are commands of az 2.74 as they were typed when testdata/az-wire.jsonl was recorded. KEY stands for
// an SSH key, which Cloister does not ask for; az sends the user's.
var recorded = map[string]string{
	"feature register (NetworkIsolatedClusterPreview)":         "feature register --namespace Microsoft.ContainerService --name NetworkIsolatedClusterPreview",
	"feature show (NetworkIsolatedClusterPreview)":             "feature show --namespace Microsoft.ContainerService --name NetworkIsolatedClusterPreview",
	"feature register (EnableAPIServerVnetIntegrationPreview)": "feature register --namespace Microsoft.ContainerService --name EnableAPIServerVnetIntegrationPreview",
	"feature show (EnableAPIServerVnetIntegrationPreview)":     "feature show --namespace Microsoft.ContainerService --name EnableAPIServerVnetIntegrationPreview",
	"provider register ContainerService":                       "provider register --namespace Microsoft.ContainerService",
	"provider register ContainerRegistry":                      "provider register --namespace Microsoft.ContainerRegistry",
	"group create":                                             "group create --name rg-netiso --location eastus",
	"group list":                                               "group list",
	"group exists":                                             "group exists -n rg-netiso",
	"group delete":                                             "group delete -n rg-netiso --yes",
	"account list-locations":                                   "account list-locations",
	"aks create managed, private link":                         "aks create -g rg-netiso -n aks-managed --kubernetes-version 1.30.3 --bootstrap-artifact-source Cache --outbound-type none --network-plugin azure --enable-private-cluster --ssh-key-value KEY",
	"aks create managed, API server VNet integration":          "aks create -g rg-netiso -n aks-managed-vi --kubernetes-version 1.30.3 --bootstrap-artifact-source Cache --outbound-type none --network-plugin azure --enable-private-cluster --enable-apiserver-vnet-integration --ssh-key-value KEY",
	"aks create plain":                                         "aks create -g rg-netiso -n aks-existing --ssh-key-value KEY",
	"aks create BYO, private link":                             "aks create -n aks-byo " + byoCluster + " --enable-private-cluster --ssh-key-value KEY",
	"aks create BYO, API server VNet integration":              "aks create -n aks-byo-vi " + byoCluster + " --enable-apiserver-vnet-integration --apiserver-subnet-id " + prefix + "Microsoft.Network/virtualNetworks/vnet-netiso/subnets/snet-apiserver --ssh-key-value KEY",
	"aks update to Cache/none (managed ACR)":                   "aks update -g rg-netiso -n aks-existing --bootstrap-artifact-source Cache --outbound-type none",
	"aks update to Cache/none (BYO ACR)":                       "aks update -g rg-netiso -n aks-existing --bootstrap-artifact-source Cache --bootstrap-container-registry-resource-id " + prefix + "Microsoft.ContainerRegistry/registries/netisoreg01 --outbound-type none",
	"aks update (new ACR id)":                                  "aks update -g rg-netiso -n aks-byo --bootstrap-artifact-source Cache --bootstrap-container-registry-resource-id " + prefix + "Microsoft.ContainerRegistry/registries/netisoreg02",
	"aks update (disable: Direct + LoadBalancer)":              "aks update -g rg-netiso -n aks-byo --bootstrap-artifact-source Direct --outbound-type LoadBalancer",
	"aks scale":                                            "aks scale -g rg-netiso -n aks-existing --node-count 2",
	"aks show (aks-managed)":                               "aks show -g rg-netiso -n aks-managed",
	"aks get-versions":                                     "aks get-versions -l eastus",
	"aks get-upgrades":                                     "aks get-upgrades -g rg-netiso -n aks-existing",
	"aks show missing":                                     "aks show -g rg-netiso -n nope",
	"aks list":                                             "aks list",
	"aks delete":                                           "aks delete -g rg-netiso -n aks-existing --yes",
	"aks get-credentials":                                  "aks get-credentials -g rg-netiso -n aks-existing -f -",
	"aks get-credentials --admin":                          "aks get-credentials -g rg-netiso -n aks-existing -f - --admin",
	"aks nodepool list":                                    "aks nodepool list -g rg-netiso --cluster-name aks-existing",
	"aks nodepool list (aks-existing)":                     "aks nodepool list -g rg-netiso --cluster-name aks-existing",
	"aks nodepool show":                                    "aks nodepool show -g rg-netiso --cluster-name aks-existing -n nodepool1",
	"aks nodepool add":                                     "aks nodepool add -g rg-netiso --cluster-name aks-existing -n np2 -c 1",
	"aks nodepool scale":                                   "aks nodepool scale -g rg-netiso --cluster-name aks-existing -n np2 -c 2",
	"aks nodepool update --no-wait":                        "aks nodepool update -g rg-netiso --cluster-name aks-existing -n np2 --labels a=b --no-wait",
	"aks nodepool delete":                                  "aks nodepool delete -g rg-netiso --cluster-name aks-existing -n np2",
	"vnet create":                                          "network vnet create -g rg-netiso -n vnet-netiso --address-prefixes 192.168.0.0/16",
	"subnet create (aks)":                                  "network vnet subnet create -n snet-aks --vnet-name vnet-netiso -g rg-netiso --address-prefixes 192.168.1.0/24 --default-outbound-access false",
	"subnet create (acr)":                                  "network vnet subnet create -n snet-acr --vnet-name vnet-netiso -g rg-netiso --address-prefixes 192.168.2.0/24 --private-endpoint-network-policies Disabled",
	"subnet create (apiserver)":                            "network vnet subnet create -n snet-apiserver --vnet-name vnet-netiso -g rg-netiso --address-prefixes 192.168.3.0/24",
	"subnet show (aks)":                                    "network vnet subnet show -n snet-aks --vnet-name vnet-netiso -g rg-netiso",
	"acr create":                                           "acr create -g rg-netiso -n netisoreg01 --sku Premium --public-network-enabled false",
	"acr update":                                           "acr update -g rg-netiso -n netisoreg01 --anonymous-pull-enabled true",
	"acr show":                                             "acr show -n netisoreg01 -g rg-netiso",
	"acr list":                                             "acr list -g rg-netiso",
	"acr check-name":                                       "acr check-name -n foo12345",
	"acr cache create":                                     "acr cache create -n acr-cache-rule -r netisoreg01 -g rg-netiso --source-repo mcr.microsoft.com/* --target-repo *",
	"acr cache list":                                       "acr cache list -r netisoreg01 -g rg-netiso",
	"acr cache show":                                       "acr cache show -r netisoreg01 -g rg-netiso -n acr-cache-rule",
	"acr private-endpoint-connection list":                 "acr private-endpoint-connection list -r netisoreg01 -g rg-netiso",
	"private-endpoint create":                              "network private-endpoint create -n myPrivateEndpoint -g rg-netiso --vnet-name vnet-netiso --subnet snet-acr --private-connection-resource-id " + prefix + "Microsoft.ContainerRegistry/registries/netisoreg01 --group-id registry --connection-name myConnection",
	"private-endpoint show":                                "network private-endpoint show -n myPrivateEndpoint -g rg-netiso",
	"nic show (registry)":                                  "network nic show --ids " + prefix + "Microsoft.Network/networkInterfaces/myPrivateEndpoint.nic.4c11a37f-cef1-47a8-b5de-c1b7c3f526c2",
	"private-dns zone create":                              "network private-dns zone create -g rg-netiso -n privatelink.azurecr.io",
	"private-dns link vnet create":                         "network private-dns link vnet create -g rg-netiso --zone-name privatelink.azurecr.io --name MyDNSLink --virtual-network vnet-netiso --registration-enabled false",
	"record-set a create (registry)":                       "network private-dns record-set a create --name netisoreg01 --zone-name privatelink.azurecr.io -g rg-netiso",
	"record-set a add-record (registry)":                   "network private-dns record-set a add-record --record-set-name netisoreg01 --zone-name privatelink.azurecr.io -g rg-netiso --ipv4-address 192.168.2.6",
	"record-set a create (data)":                           "network private-dns record-set a create --name netisoreg01.eastus.data --zone-name privatelink.azurecr.io -g rg-netiso",
	"record-set a add-record (data)":                       "network private-dns record-set a add-record --record-set-name netisoreg01.eastus.data --zone-name privatelink.azurecr.io -g rg-netiso --ipv4-address 192.168.2.5",
	"private-dns record-set a list":                        "network private-dns record-set a list -g rg-netiso -z privatelink.azurecr.io",
	"private-dns record-set a show":                        "network private-dns record-set a show -g rg-netiso -z privatelink.azurecr.io -n netisoreg01",
	"identity create (control plane)":                      "identity create -n id-controlplane -g rg-netiso",
	"identity show (control plane id)":                     "identity show -n id-controlplane -g rg-netiso --query id -o tsv",
	"role assignment create AcrPull":                       "role assignment create --role AcrPull --scope " + prefix + "Microsoft.ContainerRegistry/registries/netisoreg01 --assignee-object-id 95a78de3-a160-489a-b7d1-8a9d963e7eda --assignee-principal-type ServicePrincipal",
	"role assignment create Network Contributor":           "role assignment create --scope " + prefix + "Microsoft.Network/virtualNetworks/vnet-netiso/subnets/snet-apiserver --role Network+Contributor --assignee-object-id a7d5345c-162c-4a4b-99d6-d52373bb8e81 --assignee-principal-type ServicePrincipal",
	"resource list":                                        "resource list -g rg-netiso",
	"aks upgrade node-image-only (aks-existing)":           "aks upgrade -g rg-netiso -n aks-existing --node-image-only --yes",
	"aks upgrade --kubernetes-version":                     "aks upgrade -g rg-netiso -n aks-existing --kubernetes-version 1.30.4 --yes",
	"aks nodepool wait --updated (aks-existing/nodepool1)": "aks nodepool wait -g rg-netiso --cluster-name aks-existing -n nodepool1 --updated",
	"aks nodepool upgrade --node-image-only":               "aks nodepool upgrade -g rg-netiso --cluster-name aks-existing -n np2 --node-image-only",
	"aks nodepool upgrade --kubernetes-version":            "aks nodepool upgrade -g rg-netiso --cluster-name aks-existing -n np2 --kubernetes-version 1.30.4 --yes",
	"aks stop":                                             "aks stop -g rg-netiso -n aks-existing",
	"aks start":                                            "aks start -g rg-netiso -n aks-existing",
	"aks command invoke":                                   "aks command invoke -g rg-netiso -n aks-existing --command kubectl+get+nodes",
	"aks create outbound block (with stand-in extension)":  "aks create -g rg-netiso -n blk --outbound-type block --bootstrap-artifact-source Cache --enable-private-cluster --no-ssh-key",
	"R aks attach-acr":                                     "aks create -g rg-demo -n att --no-ssh-key --attach-acr attreg1",
	"acr login --expose-token":                             "acr login -n netisoreg01 --expose-token",
	"acr repository list":                                  "acr repository list -n netisoreg01",
	"acr import":                                           "acr import -n demoreg01 --source mcr.microsoft.com/hello:1",
	"role assignment list":                                 "role assignment list --scope " + prefix + "Microsoft.ContainerRegistry/registries/netisoreg01",
	"role assignment create again (exists)":                "role assignment create --role AcrPull --scope " + prefix + "Microsoft.ContainerRegistry/registries/netisoreg01 --assignee-object-id 95a78de3-a160-489a-b7d1-8a9d963e7eda --assignee-principal-type ServicePrincipal",
	"role assignee appid":                                  "role assignment create --role AcrPull --scope " + demoGroup + " --assignee spapp",
	"group create display location":                        "group create -n rg-demo -l East+US",
	"az rest GET":                                          "rest --method get --url " + prefix + "Microsoft.ContainerRegistry/registries/netisoreg01?api-version=2025-03-01-preview",
}

// request is one line of the recording.
type request struct {
	Command    string
	Method     string
	Path       string
	APIVersion string
	Body       any
	Status     int
}

func (r request) String() string {
	body := ""
	if r.Body != nil {
		data, _ := json.MarshalIndent(r.Body, "", "  ")
		body = "\n" + string(data)
	}
	return r.Method + " " + guid.ReplaceAllString(r.Path, "roleAssignments/GUID") + " " + r.APIVersion + body
}

var guid = regexp.MustCompile(`roleAssignments/[0-9a-f-]{36}$`)

func recording(t *testing.T) map[string][]request {
	t.Helper()
	f, err := os.Open("testdata/az-wire.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := map[string][]request{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		all[r.Command] = append(all[r.Command], r)
	}
	return all
}

// TestWire runs the commands of the recording, and compares what they send with what az sent.
func TestWire(t *testing.T) {
	all := recording(t)
	for name, line := range recorded {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := all[name]
			if len(want) == 0 {
				t.Fatal("there is no such command in the recording")
			}
			s := newService(t)
			s.seed(name, want)
			words := strings.Fields(line)
			for i, w := range words {
				words[i] = strings.ReplaceAll(strings.ReplaceAll(w, "+", " "), "KEY", "ssh-rsa AAAA...")
			}
			status, _, complaint := s.az(words...)
			if missing := name == "aks show missing"; missing && status != exitNotFound || !missing && status != 0 {
				t.Errorf("exit status %d: %s", status, complaint)
			}
			var sent, expected []string
			for _, r := range s.requests() {
				sent = append(sent, r.String())
			}
			for _, r := range want {
				expected = append(expected, r.String())
			}
			if diff := cmp.Diff(expected, sent); diff != "" {
				t.Errorf("az sends (-), this sends (+):\n%s", diff)
			}
		})
	}
}

// TestWireIsWhole fails for a recorded command that is not tried: every one is of the walkthrough or beside it.
func TestWireIsWhole(t *testing.T) {
	twins := regexp.MustCompile(`^(aks show|aks nodepool list|identity show|identity create|nic show|subnet show|acr show)`)
	for name := range recording(t) {
		if _, ok := recorded[name]; !ok && !twins.MatchString(name) {
			t.Errorf("%q is recorded, and not compared", name)
		}
	}
}

// seed puts what a command reads into the service: what was there when it was recorded.
func (s *service) seed(name string, want []request) {
	s.put("/subscriptions/"+subscription+"/resourceGroups/rg-netiso", object{"location": "eastus"})
	for n, p := range map[string]object{
		"id-controlplane": {"principalId": "a7d5345c-162c-4a4b-99d6-d52373bb8e81", "clientId": "c"},
		"id-kubelet":      {"principalId": "95a78de3-a160-489a-b7d1-8a9d963e7eda", "clientId": "916c3300-7e9d-47b2-801a-325b071c0eca"},
	} {
		s.put(prefix+"Microsoft.ManagedIdentity/userAssignedIdentities/"+n, object{"properties": p})
	}
	made := map[string]bool{}
	for _, r := range want {
		made[r.Path] = made[r.Path] || r.Method == http.MethodPut && r.Status == http.StatusCreated
	}
	for _, r := range want {
		switch {
		case made[r.Path] && !strings.Contains(name, "add-record"):
		case r.Method == http.MethodGet && r.Status == http.StatusOK && !s.has(r.Path) && !strings.HasSuffix(r.Path, "s"):
			s.put(r.Path, object{"properties": object{}})
		case r.Method == http.MethodPut && r.Status == http.StatusOK:
			s.put(r.Path, before(name, r))
		}
	}
	s.put(demoGroup, object{"location": "eastus"})
	switch name {
	case "aks upgrade node-image-only (aks-existing)":
		s.put(prefix+"Microsoft.ContainerService/managedClusters/aks-existing", object{"properties": object{"agentPoolProfiles": []any{object{"name": "nodepool1", "type": "VirtualMachineScaleSets"}}}})
	case "acr login --expose-token", "acr repository list", "acr import", "R aks attach-acr":
		for id, n := range map[string]string{prefix + "Microsoft.ContainerRegistry/registries/netisoreg01": "netisoreg01",
			demoGroup + "/providers/Microsoft.ContainerRegistry/registries/demoreg01": "demoreg01", demoGroup + "/providers/Microsoft.ContainerRegistry/registries/attreg1": "attreg1"} {
			s.put(id, object{"properties": object{"loginServer": n + ".azurecr.io"}})
			s.put("/subscriptions/"+subscription+"/resources/"+n, object{"id": id})
		}
	case "role assignment list", "role assignment create again (exists)":
		s.put(prefix+"Microsoft.ContainerRegistry/registries/netisoreg01/providers/Microsoft.Authorization/roleAssignments/1", object{"properties": object{
			"scope": prefix + "Microsoft.ContainerRegistry/registries/netisoreg01", "principalId": "95a78de3-a160-489a-b7d1-8a9d963e7eda",
			"roleDefinitionId": "/subscriptions/" + subscription + "/providers/Microsoft.Authorization/roleDefinitions/7f951dda-4ed3-4680-a7ca-43fe172d538d"}})
	case "role assignee appid":
		s.principals = []any{object{"id": "33333333-3333-3333-3333-333333333333", "appId": "spapp"}}
	case "group create display location":
		s.put("/subscriptions/"+subscription+"/locations/eastus", object{"displayName": "East US"})
	}
	if name == "role assignment create again (exists)" {
		s.refuse = func(r *http.Request) (int, string) {
			if r.Method == http.MethodPut {
				return http.StatusConflict, `{"error":{"code":"RoleAssignmentExists","message":"The role assignment already exists."}}`
			}
			return 0, ""
		}
	}
	if strings.HasPrefix(name, "aks nodepool delete") {
		s.put(prefix+"Microsoft.ContainerService/managedClusters/aks-existing/agentPools/np2", object{"properties": object{}})
	}
	if strings.Contains(name, "BYO, API server") { // made for the cluster before
		s.put(prefix+"Microsoft.Network/virtualNetworks/vnet-netiso/subnets/snet-aks/providers/Microsoft.Authorization/roleAssignments/1", object{"properties": object{
			"scope": prefix + "Microsoft.Network/virtualNetworks/vnet-netiso/subnets/snet-aks", "roleDefinitionId": "/x/" + networkContributor}})
		s.put(strings.ToLower(prefix+"Microsoft.ManagedIdentity/userAssignedIdentities/id-kubelet")+"/providers/Microsoft.Authorization/roleAssignments/1", object{"properties": object{
			"scope": "", "roleDefinitionId": "/x/" + managedIdentityOperator}})
	}
}

// before is a document that a recorded PUT changed: with read-only properties, and other values where the
// command has its own.
func before(name string, r request) object {
	data, _ := json.Marshal(r.Body)
	var doc map[string]any
	if err := json.Unmarshal(data, &doc); err != nil {
		panic(err)
	}
	doc["id"], doc["name"], doc["systemData"] = r.Path, "x", object{}
	p, _ := doc["properties"].(map[string]any)
	p["provisioningState"] = "Succeeded"
	switch {
	case strings.Contains(name, "nodepool scale"):
		p["count"] = 1
		maps.Copy(p, object{"currentOrchestratorVersion": "1", "nodeImageVersion": "2", "eTag": "3"})
	case strings.Contains(name, "nodepool upgrade"):
		p["orchestratorVersion"] = "1.30.3"
	case strings.Contains(name, "nodepool update"):
		delete(p, "nodeLabels")
	case strings.Contains(name, "record-set"):
		p["aRecords"], p["fqdn"] = []any{}, "x"
	default:
		maps.Copy(p, object{"fqdn": "x", "privateFQDN": "y", "powerState": object{"code": "Running"}, "maxAgentPools": 100, "currentKubernetesVersion": "1", "azurePortalFQDN": "z", "resourceUID": "u"})
		identity, _ := doc["identity"].(map[string]any)
		identity["principalId"], identity["tenantId"] = "p", "t"
		if all, ok := identity["userAssignedIdentities"].(map[string]any); ok {
			for id := range all {
				all[id] = object{"clientId": "c", "principalId": "p"}
			}
		}
		pool := p["agentPoolProfiles"].([]any)[0].(map[string]any)
		maps.Copy(pool, object{"provisioningState": "Succeeded", "nodeImageVersion": "n", "eTag": "e", "currentOrchestratorVersion": "1"})
		if name == "aks scale" || name == "aks upgrade --kubernetes-version" {
			pool["count"], p["kubernetesVersion"], pool["orchestratorVersion"] = 3, "", ""
			if name != "aks scale" {
				pool["count"] = 2
			}
			p["servicePrincipalProfile"] = object{"clientId": "msi"}
			break
		}
		p["bootstrapProfile"] = object{"artifactSource": "Direct", "containerRegistryId": "old"}
		if network := p["networkProfile"].(map[string]any); name != "aks update (new ACR id)" && network["outboundType"] == "none" {
			network["outboundType"], network["loadBalancerProfile"] = "loadBalancer", object{"managedOutboundIPs": object{"count": 1}}
		}
	}
	return doc
}

// TestWalkthroughNeedsNoKey is the difference from az: no SSH key, no question.
func TestWalkthroughNeedsNoKey(t *testing.T) {
	s := newService(t)
	s.seed("", nil)
	status, _, complaint := s.az(strings.Fields("aks create -g rg-netiso -n a --network-plugin azure --enable-private-cluster")...)
	if status != 0 {
		t.Fatal(complaint)
	}
	for _, r := range s.requests() {
		if strings.Contains(fmt.Sprint(r.Body), "linuxProfile") {
			t.Error("a Linux profile was sent without a key")
		}
	}
}
