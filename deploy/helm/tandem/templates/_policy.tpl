{{/* The text of policy.yaml; empty when there is no controller, or nothing that it could do by itself. */}}
{{- define "tandem.policy" -}}
{{- if .Values.controller.enabled -}}
{{- $given := .Values.policy -}}
{{- if kindIs "string" $given -}}
{{- $given -}}
{{- else if $given -}}
{{- if kindIs "bool" (dig "spec" "mode" "" $given) -}}
{{- fail "policy.spec.mode is a truth value: Helm reads Off without quotes as false. Write mode: \"Off\"" -}}
{{- end -}}
{{- toYaml $given -}}
{{- else if gt (int .Values.pools.prefill.replicas) 0 -}}
{{- include "tandem.defaultPolicy" . -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The chart's own policy moves workers of the generic group between the roles, and makes use of spare pods in it.
     Without Ray's autoscaler it leaves pinned pools as they are, and removes no worker: its pod would stay.  With it the
     groups' own bounds hold. */}}
{{- define "tandem.defaultPolicy" -}}
{{- $scales := .Values.ray.autoscaler.enabled -}}
{{- $prefill := int .Values.pools.prefill.replicas -}}
{{- $decode := int .Values.pools.decode.replicas -}}
{{- $least := 0 -}}
{{- $pods := 0 -}}
{{- $generic := 0 -}}
{{- $pinned := dict -}}
{{- range (include "tandem.groups" . | fromJson).groups -}}
{{- $most := ternary (int .max) (int .replicas) $scales -}}
{{- $pods = add $pods $most -}}
{{- $least = add $least (int .min) -}}
{{- if eq .name "workers" -}}{{- $generic = $most -}}
{{- else if $scales -}}{{- $_ := set $pinned .role (dict "minReplicas" (max 1 (int .min)) "maxReplicas" (max 1 $most)) -}}{{- end -}}
{{- end -}}
{{- $budget := add $prefill $decode -}}
{{- if $scales -}}{{- $budget = max 2 (min $budget $least) -}}{{- end -}}
{{- $bounds := dict -}}
{{- range $role, $wanted := dict "prefill" $prefill "decode" $decode -}}
{{- $other := ternary "decode" "prefill" (eq $role "prefill") -}}
{{- if (index $.Values.pinned $role).enabled -}}
{{- $_ := set $bounds $role (dig $role (dict "minReplicas" $wanted "maxReplicas" $wanted) $pinned) -}}
{{- else if (index $.Values.pinned $other).enabled -}}
{{- $_ := set $bounds $role (dict "minReplicas" (ternary 1 $wanted $scales) "maxReplicas" (max $generic $wanted)) -}}
{{- else -}}
{{- $_ := set $bounds $role (dict "minReplicas" 1 "maxReplicas" (max 1 (sub $generic 1))) -}}
{{- end -}}
{{- end -}}
apiVersion: tandem/v1
kind: AutoscalingPolicy
metadata: {name: chart-default}
spec:
  classes:
    interactive:
      ttft: {target: 2s}
      itl: {target: 100ms}
  roleSwitch: {enabled: {{ not (or .Values.pinned.prefill.enabled .Values.pinned.decode.enabled) }}}
  budget: {min: {{ $budget }}, max: {{ $pods }}}
  pools:
    prefill: {{ index $bounds "prefill" | toJson }}
    decode: {{ index $bounds "decode" | toJson }}
{{- end -}}

{{/* The Secret of the controller's certificate; empty when internal connections are plain or it shares that of the pods. */}}
{{- define "tandem.controllerSecret" -}}
{{- if and .Values.controller.enabled .Values.internalTls.secretName -}}
{{- default "" .Values.controller.tls.secretName -}}
{{- end -}}
{{- end -}}
