{{/* Names and labels.  Selectors use labels of our own: KubeRay may rewrite the app.kubernetes.io ones on its pods. */}}

{{- define "tandem.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tandem.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "tandem.selector" . }}
{{- end -}}

{{- define "tandem.selector" -}}
tandem/cluster: {{ include "tandem.fullname" . }}
{{- end -}}

{{- define "tandem.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The name that clients use and that the certificate must carry. */}}
{{- define "tandem.serverName" -}}
{{- printf "%s.%s.svc" (include "tandem.fullname" .) .Release.Namespace -}}
{{- end -}}

{{/* The worker groups as {"groups": [{name, role, spec, replicas, min, max}]}, in JSON because templates return text. */}}
{{- define "tandem.groups" -}}
{{- $generic := 0 -}}
{{- $groups := list -}}
{{- $bounds := dict -}}
{{- if .Values.ray.autoscaler.enabled -}}{{- $bounds = include "tandem.policyBounds" . | fromJson -}}{{- end -}}
{{- $least := 0 -}}
{{- $most := 0 -}}
{{- range $role := list "prefill" "decode" -}}
{{- $pool := index $.Values.pools $role -}}
{{- $pin := index $.Values.pinned $role -}}
{{- if $pin.enabled -}}
{{- $spec := mergeOverwrite (deepCopy (omit $.Values.workers "replicas" "minReplicas" "maxReplicas")) (omit $pin "enabled") -}}
{{- $groups = append $groups (dict "name" $role "role" $role "spec" $spec "wanted" (int $pool.replicas) "least" (int (dig $role "min" $pool.replicas $bounds)) "most" (int (dig $role "max" $pool.replicas $bounds))) -}}
{{- else -}}
{{- $generic = add $generic $pool.replicas -}}
{{- $least = add $least (dig $role "min" $pool.replicas $bounds) -}}
{{- $most = add $most (dig $role "max" $pool.replicas $bounds) -}}
{{- end -}}
{{- end -}}
{{- $most = min $most (dig "both" $most $bounds) -}}
{{- $groups = prepend $groups (dict "name" "workers" "role" "any" "spec" .Values.workers "wanted" (int $generic) "least" (int $least) "most" (int $most)) -}}
{{- $kept := list -}}
{{- range $group := $groups -}}
{{- $replicas := $group.wanted -}}
{{- if kindIs "invalid" $group.spec.replicas | not -}}
{{- $replicas = int $group.spec.replicas -}}
{{- if lt $replicas $group.wanted -}}
{{- fail (printf "worker group %s has %d pods, and the pools want %d workers in it: raise its replicas or lower pools.*.replicas" $group.name $replicas $group.wanted) -}}
{{- end -}}
{{- end -}}
{{- $min := $replicas -}}
{{- $max := $replicas -}}
{{- if $bounds -}}
{{- $min = int (min $replicas $group.least) -}}
{{- $max = int (max $replicas $group.most) -}}
{{- end -}}
{{- if kindIs "invalid" $group.spec.minReplicas | not -}}{{- $min = int $group.spec.minReplicas -}}{{- end -}}
{{- if kindIs "invalid" $group.spec.maxReplicas | not -}}{{- $max = int $group.spec.maxReplicas -}}{{- end -}}
{{- if or (gt $min $replicas) (lt $max $replicas) -}}
{{- fail (printf "worker group %s: minReplicas %d <= replicas %d <= maxReplicas %d does not hold" $group.name $min $replicas $max) -}}
{{- end -}}
{{- if gt $max 0 -}}
{{- $kept = append $kept (dict "name" $group.name "role" $group.role "spec" $group.spec "replicas" $replicas "min" $min "max" $max) -}}
{{- end -}}
{{- end -}}
{{- dict "groups" $kept | toJson -}}
{{- end -}}

{{/* The spec of the group in which a role's workers run. */}}
{{- define "tandem.specOfRole" -}}
{{- $found := .root.Values.workers -}}
{{- range (include "tandem.groups" .root | fromJson).groups -}}
{{- if eq .role $.role -}}{{- $found = .spec -}}{{- end -}}
{{- end -}}
{{- $found | toJson -}}
{{- end -}}

{{- define "tandem.headAccount" -}}
{{- include "tandem.fullname" . | trunc 36 | trimSuffix "-" }}-head
{{- end -}}

{{/* The least and the most workers of each role that the given policy ever allows, its schedules included, as
     {"prefill": {min, max}, "decode": {min, max}, "both": the most of both together, where a budget says so}; an empty
     object without one. */}}
{{- define "tandem.policyBounds" -}}
{{- $policy := .Values.policy -}}
{{- if kindIs "string" $policy -}}{{- $policy = fromYaml $policy -}}{{- end -}}
{{- $bounds := dict -}}
{{- if and .Values.controller.enabled $policy -}}
{{- range $role := list "prefill" "decode" -}}
{{- $pool := dig "spec" "pools" $role dict $policy -}}
{{- $min := int (dig "minReplicas" 1 $pool) -}}
{{- $max := int (dig "maxReplicas" $min $pool) -}}
{{- range $schedule := dig "spec" "schedules" list $policy -}}
{{- $meanwhile := dig "pools" $role dict $schedule -}}
{{- $min = min $min (int (dig "minReplicas" $min $meanwhile)) -}}
{{- $max = max $max (int (dig "maxReplicas" $max $meanwhile)) -}}
{{- end -}}
{{- $_ := set $bounds $role (dict "min" $min "max" $max) -}}
{{- end -}}
{{- $both := int (dig "spec" "budget" "max" 0 $policy) -}}
{{- $counted := dig "spec" "pools" "prefill" "acceleratorsPerWorker" 1 $policy | add (dig "spec" "pools" "decode" "acceleratorsPerWorker" 1 $policy) -}}
{{- if and $both (eq (int $counted) 2) -}}{{/* a budget counts accelerators: it bounds workers only where each has one */}}
{{- range $schedule := dig "spec" "schedules" list $policy -}}
{{- $both = max $both (int (dig "budget" "max" $both $schedule)) -}}
{{- end -}}
{{- $_ := set $bounds "both" $both -}}
{{- end -}}
{{- end -}}
{{- $bounds | toJson -}}
{{- end -}}
