<?php
/**
 * Avatars of BuddyPress.
 *
 * @package Avatarmod
 */

namespace Avatarmod;

defined( 'ABSPATH' ) || exit;

/** It keeps two sizes in a folder for each user, and shows them without asking WordPress. */
final class Buddypress {

	/** Answer its hooks; they are never called where it is absent. */
	public static function hook(): void {
		add_action( 'bp_members_avatar_uploaded', array( Sender::class, 'examine_later' ), 10, 1 );
		add_action( 'bp_core_delete_existing_avatar', array( self::class, 'on_delete' ) );
		add_filter( 'bp_core_fetch_avatar_no_grav', '__return_true', 9999 );
		add_filter( 'bp_core_fetch_avatar_url', array( self::class, 'url' ), 9999, 2 );
		add_filter( 'bp_core_fetch_avatar', array( self::class, 'html' ), 9999, 2 );
		add_action( 'template_notices', array( Notices::class, 'show_in_template' ) );
	}

	/** The full size that somebody has there. */
	public static function picture( int $user_id ): ?Picture {
		if ( ! function_exists( 'bp_core_avatar_upload_path' ) ) {
			return null;
		}
		$folder = trailingslashit( bp_core_avatar_upload_path() ) . "avatars/$user_id/";
		$full   = glob( $folder . '*-bpfull.*' );
		$below  = trailingslashit( wp_get_upload_dir()['basedir'] );
		if ( ! $full || 0 !== strpos( $full[0], $below ) ) {
			return null;
		}
		$picture = Picture::named( substr( $full[0], strlen( $below ) ) );
		if ( null !== $picture ) {
			$picture->copies = array_map(
				static function ( string $path ) use ( $below ) {
					return substr( $path, strlen( $below ) );
				},
				(array) glob( $folder . '*-bpthumb.*' )
			);
		}
		return $picture;
	}

	/** Of a user: what is approved, else the default. */
	public static function url( $url, $params ) {
		if ( Sources::$is_asking || 'user' !== ( $params['object'] ?? '' ) ) {
			return $url;
		}
		return Display::approved( (int) $params['item_id'], (string) $url ) ?? Display::default_url();
	}

	/** The same within an element. */
	public static function html( $html, $params ) {
		if ( 'user' !== ( $params['object'] ?? '' ) || ! preg_match( '~\ssrc="([^"]*)"~', $html, $found ) ) {
			return $html;
		}
		$url = self::url( html_entity_decode( $found[1] ), $params );
		return str_replace( $found[0], ' src="' . esc_url( $url ) . '"', $html );
	}

	/** Somebody removed theirs. */
	public static function on_delete( $args ): void {
		if ( 'user' === ( $args['object'] ?? 'user' ) && ! empty( $args['item_id'] ) ) {
			Sender::examine_later( (int) $args['item_id'] );
		}
	}
}
