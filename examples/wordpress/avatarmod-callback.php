<?php
/**
 * Receive verdicts of avatar-moderation. One file, no dependencies, PHP 7.2 and newer.
 *
 * In WordPress: copy it to wp-content/mu-plugins/, put AVATARMOD_SECRET (whsec_...) into
 * wp-config.php, and set AVATARMOD_CALLBACK_URL=https://example.org/wp-json/avatarmod/v1/verdict.
 * Act on the verdict in your own code:
 *
 *     add_action('avatarmod_verdict', function (array $data) {
 *         // $data['upload_id'], $data['state'] (approved, blocked, held, rejected...), $data['seq']
 *     });
 *
 * Elsewhere: require it and call avatarmod_verify() with the raw body, never a re-encoded one.
 */

/** Seconds that the clocks of both machines may differ. Source: Standard Webhooks 1.0. */
const AVATARMOD_TOLERANCE_S = 300;

/**
 * @param string       $body    The request's body, byte for byte.
 * @param array        $headers Header name in lower case => value.
 * @param string|array $secrets One or several whsec_... secrets (while one is being replaced).
 * @param int|null     $now     Unix time; for tests.
 * @return array|null  The callback {type, timestamp, data}, or null when it must not be trusted.
 */
function avatarmod_verify($body, array $headers, $secrets, $now = null)
{
    $now = $now === null ? time() : $now;
    foreach (array('webhook-id', 'webhook-timestamp', 'webhook-signature') as $name) {
        if (!isset($headers[$name]) || !is_string($headers[$name]) || $headers[$name] === '') {
            return null;
        }
    }
    $timestamp = $headers['webhook-timestamp'];
    if (!ctype_digit($timestamp) || abs($now - (int) $timestamp) > AVATARMOD_TOLERANCE_S) {
        return null;
    }
    $signed = $headers['webhook-id'] . '.' . $timestamp . '.' . $body;
    foreach ((array) $secrets as $secret) {
        $key = base64_decode(substr($secret, strlen('whsec_')), true);
        if (strpos($secret, 'whsec_') !== 0 || $key === false || strlen($key) < 24) {
            continue;
        }
        $expected = base64_encode(hash_hmac('sha256', $signed, $key, true));
        foreach (explode(' ', $headers['webhook-signature']) as $signature) {
            if (strpos($signature, 'v1,') === 0 && hash_equals($expected, substr($signature, 3))) {
                $event = json_decode($body, true);
                return isset($event['data']['upload_id']) ? $event : null;
            }
        }
    }
    return null;
}

if (function_exists('add_action')) {
    add_action('rest_api_init', function () {
        register_rest_route('avatarmod/v1', '/verdict', array(
            'methods' => 'POST',
            'permission_callback' => function ($request) {
                return avatarmod_event($request) !== null;
            },
            'callback' => function ($request) {
                $event = avatarmod_event($request);
                $data = $event['data'];
                // The same callback may come twice, and an older one after a newer one.
                $key = 'avatarmod_' . md5($data['upload_id']);
                if ((int) get_transient($key) < (int) $data['seq']) {
                    set_transient($key, (int) $data['seq'], 30 * DAY_IN_SECONDS);
                    do_action('avatarmod_verdict', $data);
                }
                return new WP_REST_Response(null, 204);
            },
        ));
    });

    function avatarmod_event($request)
    {
        $headers = array();
        foreach (array('webhook-id', 'webhook-timestamp', 'webhook-signature') as $name) {
            $headers[$name] = (string) $request->get_header($name);
        }
        return avatarmod_verify($request->get_body(), $headers, AVATARMOD_SECRET);
    }
}
