package azurecli

import (
	"strings"
	"testing"
)

// TestRegistry does with the unmodified az what people do with a registry beside the page: lists, imports, deletes,
// passwords, and who may come to it.
func TestRegistry(t *testing.T) {
	in := newInstallation(t)
	in.useAzureCLI(t)
	x := in.workstation(t, false)
	defer x.close()
	refused := func(words, line string) {
		t.Helper()
		if status, shown := x.try(line); status == 0 || !strings.Contains(strings.Join(strings.Fields(shown), " "), words) {
			t.Errorf("%s: status %d, want %q in\n%s", line, status, words, shown)
		}
	}
	shows := func(want, line string) {
		t.Helper()
		if shown := strings.Join(strings.Fields(x.typed(line)), " "); !strings.HasSuffix(shown, want) {
			t.Errorf("%s: %q, want %q", line, shown, want)
		}
	}
	x.typed("az group create -n demo -l eastus -o none")
	shows("azreg01.azurecr.io", "az acr create -g demo -n azreg01 --sku Premium --query loginServer -o tsv")

	// Import, and what is there then.
	const hello = "mcr.microsoft.com/azuredocs/aks-helloworld:v1"
	x.typed("az acr import -n azreg01 --source " + hello + " --image hello:v1 --image hello:v2")
	refused("(Conflict) Tag hello:v1 already exists in target registry.", "az acr import -n azreg01 --source "+hello+" --image hello:v1")
	x.typed("az acr import -n azreg01 --source " + hello + " --image hello:v1 --force")
	x.typed("az acr import -n azreg01 --source azreg01.azurecr.io/hello:v1 --image copied:v1")
	refused("(InvalidParameters)", "az acr import -n azreg01 --source mcr.microsoft.com/none:1")
	shows("copied hello", "az acr repository list -n azreg01 -o tsv")
	shows("1 2", "az acr repository show -n azreg01 --repository hello --query '[manifestCount,tagCount]' -o tsv")
	shows("v2", "az acr repository show-tags -n azreg01 --repository hello --orderby time_asc --top 1 -o tsv")
	shows("amd64 linux", "az acr manifest list-metadata -r azreg01 -n hello --query '[0].[architecture,os]' -o tsv 2>/dev/null")
	shows("application/vnd.oci.image.manifest.v1+json", "az acr manifest show -r azreg01 -n hello:v1 --query mediaType -o tsv 2>/dev/null")
	shows("Bytes", "az acr show-usage -n azreg01 --query 'value[?currentValue>`1000`].unit' -o tsv")
	x.typed("az acr repository untag -n azreg01 --image hello:v2")
	refused("not supported by Cloister", "az acr repository update -n azreg01 --repository hello --write-enabled false")
	x.typed("az acr repository delete -n azreg01 --image hello:v1 --yes")
	x.typed("az acr repository delete -n azreg01 --repository hello --yes")
	shows("copied", "az acr repository list -n azreg01 -o tsv")

	// The admin user.
	refused("to enable admin first", "az acr credential show -n azreg01")
	x.typed("az acr update -n azreg01 --admin-enabled true -o none")
	x.typed(`PASSWORD=$(az acr credential show -n azreg01 --query 'passwords[0].value' -o tsv)`)
	shows("copied", `az acr repository list -n azreg01 -u azreg01 -p "$PASSWORD" -o tsv`)
	shows("false", `az acr credential renew -n azreg01 --password-name password --query "passwords[0].value=='$PASSWORD'" -o tsv`)

	// Who may come: addresses, tokens, nobody.
	x.typed("az acr network-rule add -n azreg01 --ip-address 192.0.2.0/24 -o none")
	x.typed("az acr update -n azreg01 --default-action Deny -o none")
	refused("Looks like you don't have access to registry 'azreg01.azurecr.io'", "az acr repository list -n azreg01")
	x.typed("az acr network-rule add -n azreg01 --ip-address 198.18.8.0/21 -o none")
	shows("copied", "az acr repository list -n azreg01 -o tsv")
	x.typed("az acr config authentication-as-arm update -r azreg01 --status disabled -o none 2>/dev/null")
	shows("copied", "az acr repository list -n azreg01 -o tsv")
	exchange := `curl -sS -o /dev/null -w '%{http_code}\n' -d grant_type=access_token -d service=azreg01.azurecr.io --data-urlencode access_token="$(az account get-access-token --resource RESOURCE --query accessToken -o tsv)" https://azreg01.azurecr.io/oauth2/exchange`
	shows("401", strings.Replace(exchange, "RESOURCE", "https://management.azure.com/", 1))
	shows("200", strings.Replace(exchange, "RESOURCE", "https://containerregistry.azure.net", 1))
	x.typed("az acr update -n azreg01 --public-network-enabled false -o none")
	refused("Looks like you don't have access to registry 'azreg01.azurecr.io'", "az acr login -n azreg01 --expose-token")
	refused("SkuNotSupported", "az acr update -n azreg01 --sku Basic")
	x.typed("az acr delete -n azreg01 --yes")
}
