<?php
/**
 * Where callbacks arrive: /wp-json/avatarmod/v1/verdict, or /index.php?rest_route=/avatarmod/v1/verdict.
 *
 * @package Avatarmod
 */

namespace Avatarmod;

defined( 'ABSPATH' ) || exit;

/** One REST route. */
final class Receiver {

	/** Register it. */
	public static function hook(): void {
		add_action(
			'rest_api_init',
			static function () {
				register_rest_route(
					'avatarmod/v1',
					'/verdict',
					array(
						'methods'             => 'POST',
						'callback'            => array( self::class, 'receive' ),
						'permission_callback' => array( self::class, 'is_signed' ),
					)
				);
			}
		);
	}

	/** Only who knows the secret may call. */
	public static function is_signed( \WP_REST_Request $request ) {
		$connection = Settings::parse();
		$holds      = null !== $connection && Signature::holds(
			$request->get_body(),
			(string) $request->get_header( 'webhook-id' ),
			(string) $request->get_header( 'webhook-timestamp' ),
			(string) $request->get_header( 'webhook-signature' ),
			$connection['secret']
		);
		return $holds ? true : new \WP_Error( 'avatarmod_signature', 'The signature does not fit.', array( 'status' => 401 ) );
	}

	/** Take a verdict, or answer `avatarmod callbacks test`; what we do not know is nobody's fault. */
	public static function receive( \WP_REST_Request $request ) {
		$event = json_decode( $request->get_body(), true );
		$type  = $event['type'] ?? '';
		$data  = (array) ( $event['data'] ?? array() );
		Settings::note( 'called_at', time() );
		try {
			if ( 'avatar.moderated' === $type ) {
				Verdicts::take( $data );
			}
		} catch ( \Throwable $error ) {
			// Not remembered: the service sends it again.
			Settings::note( 'handler_error', $error->getMessage() );
			return new \WP_Error( 'avatarmod_handler', $error->getMessage(), array( 'status' => 500 ) );
		}
		$answer = new \WP_REST_Response( array( 'nonce' => 'avatar.ping' === $type ? $data['nonce'] ?? '' : null ) );
		$answer->header( 'Avatarmod-Receiver', 'wordpress' );
		return $answer;
	}
}
